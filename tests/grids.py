"""Means over all draws of a program and over a quadrature of its estimators' noise, all at once.

The program is run on many rows of parameters, [rows, n], which have no cost in common: each row has
its own outcome of every site, and its own noise. The estimates of the rows, weighed with their
probabilities, are the mean. Sites, and elements that have no costs in common, share the nodes of a
row: the estimate is a sum over them, so that its mean asks for no product of their noises.
"""

import itertools
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

import oracles
from ancestral.estimators.relaxation.concrete import OpenUniform
from ancestral.estimators.rerun.estimate import Chosen, Plan, estimated
from ancestral.trace.recording.message import Message

Program = Callable[[Tensor], Tensor]
Rule = Callable[[int], tuple[Tensor, Tensor]]
"""Returns so many nodes between 0 and 1, and their weights."""


def legendre(count: int) -> tuple[Tensor, Tensor]:
    """Return nodes and weights between 0 and 1 that are exact for polynomials.

    Given what was drawn, a relaxed bit is a rational function of its noise without a pole there,
    for temperatures of 1 and 1/2: the rule gains a digit with every node or two.
    """
    x, w = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def tanh_sinh(count: int) -> tuple[Tensor, Tensor]:
    """Return the same for what may have logarithms at the ends: Takahasi and Mori (1974)."""
    t = torch.linspace(-3.1, 3.1, count, dtype=torch.double)
    u = torch.sigmoid(torch.pi * t.sinh())
    weights = t.cosh() * u * torch.sigmoid(-torch.pi * t.sinh())
    return u, weights / weights.sum()


@dataclass(frozen=True)
class Rows:
    """A program of rows: theta [rows, n] to the sum of the losses of all rows.

    Attributes:
        program: the program.
        at: the parameters of a row.
        sites: for each site that is drawn the values that it takes in a row, [values, *shape].
        noises: how many numbers of an estimator's noise there are to one cost.
        rule: the quadrature of each.
        noise: spreads these, [rows, noises], over the shape of an estimator's noise.
    """

    program: Program
    at: list[float]
    sites: Mapping[str, Tensor]
    noises: int = 1
    rule: Rule = legendre
    noise: Callable[[Tensor, torch.Size], Tensor] = lambda found, shape: found.reshape(
        shape if found.numel() == shape.numel() else (len(found), *(1,) * (len(shape) - 1))
    ).expand(shape)


def bits(*shape: int) -> Tensor:
    """Return all values of some bits, [2 ** elements, *shape]."""
    found = list(itertools.product((0.0, 1.0), repeat=torch.Size(shape).numel()))
    return torch.tensor(found, dtype=torch.float64).reshape(-1, *shape)


NORMAL = torch.tensor(oracles.NOISE, dtype=torch.float64)
"""The noise of a normal draw, as the oracle has it."""


@dataclass
class Grid:
    """What decides the draws: each row has its own, in every run."""

    values: dict[str, Tensor]
    noise: Tensor  # [rows, noises]
    case: Rows
    weights: Tensor
    met: set[str] = field(default_factory=set[str])
    is_aligned: bool = True

    @contextmanager
    def run(self) -> Generator[None]:
        """Do nothing around a run."""
        yield

    def fresh(self) -> "Grid":
        """Return itself."""
        return self

    def process(self, message: Message, *, is_first: bool) -> Message:
        """Let each row have its outcome."""
        fn, value = message.fn, self.values[message.name]
        if isinstance(fn, Normal):
            return replace(message, sampler=lambda: fn.loc + fn.scale * value)
        assert fn is not None
        value = value.reshape(*fn.batch_shape, *fn.event_shape)
        if is_first and message.name not in self.met:
            self.met.add(message.name)
            probs = fn.log_prob(value).detach().reshape(len(self.weights), -1).sum(-1).exp()
            self.weights = self.weights * probs
        return replace(message, sampler=value.clone)

    def postprocess(self, message: Message) -> None:
        """Do nothing."""

    def draw(self, fn: Distribution) -> Tensor:
        """Return the nodes of each row."""
        assert isinstance(fn, OpenUniform)
        return self.case.noise(self.noise, fn.batch_shape)


def mean_of(case: Rows, estimators: Mapping[str, Chosen], nodes: int) -> Tensor:
    """Return the mean of an estimate of a program, [n]."""
    points, by_point = case.rule(nodes)
    axes = [torch.arange(len(each)) for each in case.sites.values()]
    grid = torch.cartesian_prod(*axes, *[torch.arange(nodes)] * case.noises)
    grid = grid.reshape(len(grid), -1)
    values = {n: v[grid[:, at]] for at, (n, v) in enumerate(case.sites.items())}
    at_nodes = grid[:, len(axes) :]
    weights = by_point[at_nodes].prod(-1)
    for value in values.values():
        if value.dim() == 1 and bool((value.abs() == 1).all()) and value.min() < 0:
            weights = weights / 2  # the two values of a normal noise
    chance = Grid(values, points[at_nodes], case, weights)
    theta = torch.tensor(case.at, dtype=torch.float64).expand(len(grid), -1).clone()
    theta.requires_grad_()
    found = estimated(
        lambda: case.program(theta), Plan(dict(estimators), None), chance, check=False
    )
    (rows,) = torch.autograd.grad(found.surrogate, [theta])
    total: Any = chance.weights
    assert abs(float(total.sum()) - 1) < 1e-10
    return chance.weights @ rows


def exact(case: Rows) -> Tensor:
    """Return the gradient by the enumeration of `oracles`, of one row."""
    theta = torch.tensor(case.at, dtype=torch.float64, requires_grad=True)
    return oracles.exact_gradient(lambda theta: case.program(theta[None]), [theta])
