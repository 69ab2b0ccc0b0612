"""All outcomes of K draws at once, as the examples of one plate.

Each example has parameters that are its own leaves, and one of the outcomes for its draws: values
of finite sites, nodes of a Gauss-Hermite rule for the noise of normal ones. So one run of a program
has the estimate of every outcome, as the gradient of the leaves of its example, and their weighted
mean is exact. Nothing is shared with the library but the densities of torch.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution, Normal

import ancestral as an
from oracles import forcing

Programs = tuple[Callable[[], Any], Callable[[], Any]]
X = torch.tensor(0.7, dtype=torch.float64)


def coin(logits: Tensor) -> Bernoulli:
    return Bernoulli(logits=logits)


@dataclass(frozen=True)
class Case:
    """A guide as its draws, a model as its density; each parameter has the shape of an example.

    `kinds` says what the guide draws, "b" for a coin and "n" for a normal; `programs` makes the
    pair, `log_p` and `log_q` are their densities at given draws.
    """

    kinds: str
    programs: Callable[[Sequence[Tensor], int], Programs]
    draws: Callable[[Sequence[Tensor], Sequence[Tensor]], list[Tensor]]
    log_p: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]
    log_q: Callable[[Sequence[Tensor], Sequence[Tensor]], Tensor]


def plated(size: int, body: Callable[[], Any]) -> Callable[[], Any]:
    def program() -> None:
        with an.plate("data", size):
            body()

    return program


# --- Two coins ---


def coins_programs(v: Sequence[Tensor], size: int) -> Programs:
    def model() -> None:
        a = an.sample("a", coin(v[0]))
        b = an.sample("b", coin(v[1] * a))
        an.sample("x", Normal(a - b * v[1], 0.7), obs=X.expand(size))

    def guide() -> None:
        a = an.sample("a", coin(v[2]))
        an.sample("b", coin(v[3] + v[1] * a))

    return plated(size, model), plated(size, guide)


COINS = Case(
    "bb",
    coins_programs,
    lambda v, e: list(e),
    lambda v, z: (
        coin(v[0]).log_prob(z[0])
        + coin(v[1] * z[0]).log_prob(z[1])
        + Normal(z[0] - z[1] * v[1], 0.7).log_prob(X)
    ),
    lambda v, z: coin(v[2]).log_prob(z[0]) + coin(v[3] + v[1] * z[0]).log_prob(z[1]),
)


# --- A normal whose value a coin depends on ---


def after_programs(v: Sequence[Tensor], size: int) -> Programs:
    def model() -> None:
        y = an.sample("y", Normal(v[0], 1.0))
        b = an.sample("b", coin(v[1] * y))
        an.sample("x", Normal(y + v[0] * b, 0.9), obs=X.expand(size))

    def guide() -> None:
        y = an.sample("y", Normal(v[2], (0.2 * v[3] - 0.4).exp()))
        an.sample("b", coin(v[3] + v[1] * y))

    return plated(size, model), plated(size, guide)


COIN_AFTER = Case(
    "nb",
    after_programs,
    lambda v, e: [v[2] + (0.2 * v[3] - 0.4).exp() * e[0], e[1]],
    lambda v, z: (
        Normal(v[0], 1.0).log_prob(z[0])
        + coin(v[1] * z[0]).log_prob(z[1])
        + Normal(z[0] + v[0] * z[1], 0.9).log_prob(X)
    ),
    lambda v, z: (
        Normal(v[2], (0.2 * v[3] - 0.4).exp()).log_prob(z[0])
        + coin(v[3] + v[1] * z[0]).log_prob(z[1])
    ),
)


# --- A coin, a normal below it, and a normal below that ---


def before_programs(v: Sequence[Tensor], size: int) -> Programs:
    def model() -> None:
        b = an.sample("b", coin(v[0]))
        y = an.sample("y", Normal(v[1] * b, 1.0))
        an.sample("x", Normal(y * v[0] + b, 0.9), obs=X.expand(size))

    def guide() -> None:
        b = an.sample("b", coin(v[2]))
        an.sample("y", Normal(v[3] * b + v[1], (0.2 * v[2] - 0.4).exp()))

    return plated(size, model), plated(size, guide)


COIN_BEFORE = Case(
    "bn",
    before_programs,
    lambda v, e: [e[0], v[3] * e[0] + v[1] + (0.2 * v[2] - 0.4).exp() * e[1]],
    lambda v, z: (
        coin(v[0]).log_prob(z[0])
        + Normal(v[1] * z[0], 1.0).log_prob(z[1])
        + Normal(z[1] * v[0] + z[0], 0.9).log_prob(X)
    ),
    lambda v, z: (
        coin(v[2]).log_prob(z[0])
        + Normal(v[3] * z[0] + v[1], (0.2 * v[2] - 0.4).exp()).log_prob(z[1])
    ),
)


# --- Two normals, one below the other ---


def chain_programs(v: Sequence[Tensor], size: int) -> Programs:
    def model() -> None:
        y = an.sample("y", Normal(v[0], 1.0))
        u = an.sample("u", Normal(v[1] * y, 0.8))
        an.sample("x", Normal(y + u, 3.0), obs=X.expand(size))

    def guide() -> None:
        y = an.sample("y", Normal(v[2], (0.2 * v[3]).exp()))
        an.sample("u", Normal(v[1] * y + 0.1 * v[3], (0.3 * v[2] - 0.3).exp()))

    return plated(size, model), plated(size, guide)


def chain_draws(v: Sequence[Tensor], e: Sequence[Tensor]) -> list[Tensor]:
    y = v[2] + (0.2 * v[3]).exp() * e[0]
    return [y, v[1] * y + 0.1 * v[3] + (0.3 * v[2] - 0.3).exp() * e[1]]


CHAIN = Case(
    "nn",
    chain_programs,
    chain_draws,
    lambda v, z: (
        Normal(v[0], 1.0).log_prob(z[0])
        + Normal(v[1] * z[0], 0.8).log_prob(z[1])
        + Normal(z[0] + z[1], 3.0).log_prob(X)
    ),
    lambda v, z: (
        Normal(v[2], (0.2 * v[3]).exp()).log_prob(z[0])
        + Normal(v[1] * z[0] + 0.1 * v[3], (0.3 * v[2] - 0.3).exp()).log_prob(z[1])
    ),
)

CASES = {"coins": COINS, "after": COIN_AFTER, "before": COIN_BEFORE, "chain": CHAIN}


@dataclass(frozen=True)
class Outcomes:
    """All outcomes of K draws of a case.

    Attributes:
        noise: for each site the value of a coin, or the noise of a normal, [K, outcomes].
        log_weight: of the noise of normals, [outcomes]; the coins have their probabilities.
    """

    case: Case
    particles: int
    noise: list[Tensor]
    log_weight: Tensor

    @property
    def size(self) -> int:
        return len(self.log_weight)

    def leaves(self) -> list[Tensor]:
        values = (0.4, -0.6, 0.3, 0.5)
        return [torch.full((self.size,), x, dtype=torch.float64).requires_grad_() for x in values]

    def log_prob(self, v: Sequence[Tensor]) -> Tensor:
        """Return the log-probability of each outcome, [outcomes]; of coins the learned one."""
        z = self.case.draws(v, self.noise)
        total = self.log_weight
        if "b" in self.case.kinds:
            total = total + self._coins(v, z).sum(0)
        return total

    def _coins(self, v: Sequence[Tensor], z: Sequence[Tensor]) -> Tensor:
        normals = torch.zeros((), dtype=torch.float64)
        if "n" in self.case.kinds:  # what is left of the density without that of the noise
            at = self.case.kinds.index("n")
            log_scale = {"nb": 0.2 * v[3] - 0.4, "bn": 0.2 * v[2] - 0.4}[self.case.kinds]
            normals = Normal(0.0, 1.0).log_prob(self.noise[at]) - log_scale
        return self.case.log_q(v, z) - normals

    def force(self, fn: Distribution, shape: torch.Size, left: list[Tensor]) -> Tensor:
        noise = left.pop(0).reshape(shape)
        return fn.loc + noise * fn.scale if isinstance(fn, Normal) else noise.clone()

    def estimates(self, run: Callable[[Programs], Tensor]) -> tuple[Tensor, Tensor]:
        """Return what `run` makes of all outcomes at once: surrogate's gradients, [4, outcomes].

        And their probabilities, [outcomes].
        """
        return self.gradients(lambda v: run(self.case.programs(v, self.size)))

    def gradients(self, run: Callable[[list[Tensor]], Tensor]) -> tuple[Tensor, Tensor]:
        """Return the same of what takes the parameters."""
        v, left = self.leaves(), list(self.noise)
        with forcing(lambda fn, shape: self.force(fn, shape, left)):
            surrogate = run(v)
        assert not left
        found = torch.autograd.grad(surrogate, v, materialize_grads=True)
        return torch.stack(found), self.log_prob(v).detach().exp()

    def mean(self, run: Callable[[Programs], Tensor]) -> Tensor:
        found, weights = self.estimates(run)
        return found @ weights

    def truth(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the derivative of the expectation of a function of log p and log q, [4]."""
        v = self.leaves()
        z = self.case.draws(v, self.noise)
        value = function(self.case.log_p(v, z), self.case.log_q(v, z))
        expected = (self.log_prob(v).exp() * value).sum()
        found = torch.autograd.grad(expected, v, materialize_grads=True)
        return torch.stack(found).sum(1)

    def held(self, function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the expected derivative of a function with the draws held fixed, [4]."""
        v = self.leaves()
        z = [each.detach() for each in self.case.draws(v, self.noise)]
        value = function(self.case.log_p(v, z), self.case.log_q(v, z))
        weighed = (self.log_prob(v).detach().exp() * value).sum()
        found = torch.autograd.grad(weighed, v, materialize_grads=True)
        return torch.stack(found).sum(1)


def outcomes(case: Case, particles: int, nodes: int = 40) -> Outcomes:
    """Return all outcomes of some draws of a case."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    normal = (torch.tensor(points), torch.tensor(weights).log() - 0.5 * math.log(2 * math.pi))
    coins = torch.tensor([0.0, 1.0], dtype=torch.float64)
    each = [(coins, torch.zeros(2)) if kind == "b" else normal for kind in case.kinds]
    grid = list(itertools.chain(*([pair] * particles for pair in each)))
    values = torch.cartesian_prod(*(value for value, _ in grid)).reshape(-1, len(grid))
    log_weight = torch.cartesian_prod(*(w.double() for _, w in grid)).reshape(-1, len(grid)).sum(1)
    is_there = log_weight > -80
    values, log_weight = values[is_there], log_weight[is_there]
    noise = list(values.T.reshape(len(each), particles, -1))
    return Outcomes(case, particles, noise, log_weight)
