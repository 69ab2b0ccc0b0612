"""Answers: the truth and the moments of an estimate, each by quadratures until they agree."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.gradient.surrogate import settle
from ancestral.estimators.rerun.estimate import Plan, refuse_change
from ancestral.estimators.rerun.moments import (
    Moments,
    Panels,
    derivatives,
    moments_of,
    truth_by_panels,
    truth_of,
)
from ancestral.estimators.rerun.outcomes import NODES, Outcomes, TooManyOutcomesError
from ancestral.estimators.rerun.replay import First

_FINEST = 64  # nodes of a Gaussian rule
_EXACT, _SINGLE = 1e-8, 1e-3
Naming = Callable[[Tensor], dict[str, Tensor]]
"""Returns the parameters by name, given a scalar that is computed from them."""


@dataclass(frozen=True, eq=False)
class Asked:
    """What is to be verified, and how exactly: see `verify`."""

    run: Callable[[], Loss | None]
    plan: Plan
    order: int
    nodes: int
    most: int
    tolerance: float | None

    def allowed(self, tensors: Iterable[Tensor]) -> float:
        """Return what a mean that is computed from tensors may be off, relative to the scale."""
        if self.tolerance is not None:
            return self.tolerance
        kinds = {tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point}
        return _EXACT if kinds <= {torch.float64} else _SINGLE

    def moments(
        self,
        leaves: Sequence[Tensor],
        *,
        nodes: int = NODES,
        losses: Sequence[Tensor] | None = None,
        panels: Panels | None = None,
    ) -> Moments:
        """Return the moments of the estimate, as `moments_of`."""
        order, most = self.order, self.most
        return moments_of(
            *(self.run, self.plan, leaves),
            order=order,
            nodes=nodes,
            most=most,
            losses=losses,
            panels=panels,
        )


@dataclass(frozen=True, eq=False)
class Answer:
    """The truth and the moments of an estimate, [n], by the nodes of one quadrature.

    Attributes:
        error: by how much the difference of mean and truth may be off, by the quadrature.
        nodes: of how many nodes it is; 0 of panels.
        sizes: how many continuous numbers each outcome has, of truth and estimate.
        integrals: over how much noise, of how many sites and outcomes, the mean is an integral.
        allowed: what the mean may be off besides, relative to the scale.
    """

    named: dict[str, Tensor]
    exact: Tensor
    mean: Tensor
    variance: Tensor
    error: Tensor
    evaluations: float
    outcomes: int
    nodes: int
    sizes: tuple[list[int], list[int]]
    integrals: int
    allowed: float

    def count(self, nodes: int) -> int:
        """Return how many outcomes there will be for so many nodes of each number, of one here."""
        return int(max(sum(nodes**size for size in sizes) for sizes in self.sizes))

    @property
    def scale(self) -> float:
        """The largest derivative or standard deviation."""
        return max(float(self.exact.abs().max()), math.sqrt(float(self.variance.max())))

    @property
    def reached(self) -> float:
        """The largest error; infinite if it is unknown."""
        found = float(self.error.max())
        return found if found == found else math.inf

    @property
    def is_enough(self) -> bool:
        """Whether the error is as small as was asked for."""
        return self.reached <= self.allowed * self.scale

    def reason(self, asked: Asked) -> str:
        """Return what was not reached, if it was not."""
        if self.is_enough:
            return ""
        return (
            f"the quadrature is exact to {self.reached:.1g}, not to the "
            f"{self.allowed * self.scale:.1g} that was asked for, with at most "
            f"{asked.most} outcomes; allow more (outcomes=), or take fewer elements or sites"
        )


def _by_nodes(asked: Asked, nodes: int, naming: Naming, *, known: Answer | None = None) -> Answer:
    """Return an answer whose error is unknown, unless nothing is continuous.

    Without a known one, a program that differs from run to run is refused.
    """
    truth = truth_of(asked.run, nodes=nodes, most=asked.most)
    named = naming(truth.expected)
    leaves = list(named.values())
    if known is None:
        run = First.of(asked.run, Outcomes(nodes=1))
        refuse_change(run)
        settle(run.trace)
        # Categories are integers, of which a constant of Python makes float32.
        allowed = asked.allowed([*leaves, *(term.value for term in run.problem.terms)])
    else:
        allowed = known.allowed
    exact = derivatives(truth.expected, leaves, asked.order)
    found = asked.moments(leaves, nodes=nodes, losses=truth.losses)
    sizes = truth.sizes, found.sizes
    error = torch.full_like(exact, math.inf if max(map(max, sizes)) else 0.0)
    moments = found.mean, found.variance, error, found.evaluations
    count = max(found.outcomes, len(truth.losses))
    return Answer(named, exact, *moments, count, nodes, sizes, found.integrals, allowed)


def refined(asked: Asked, naming: Naming) -> Answer:
    """Return the answer with the least error.

    First by Gaussian rules of more and more nodes, of which two that follow each other are
    compared, or three where they do not agree; then by panels.

    Raises:
        TooManyOutcomesError, NotEnumerableError: if there are too many for any two rules.
        NotAFunctionError: if the program differs from run to run.
    """
    first = _by_nodes(asked, 1, naming)
    if first.is_enough:  # nothing is continuous
        return first
    fit = [n for n in range(asked.nodes, 1, -1) if first.count(_more(n)) <= asked.most]
    if not fit:
        raise TooManyOutcomesError.of(asked.most)
    found, nodes = [_by_nodes(asked, fit[0], naming, known=first)], _more(fit[0])
    while not found[-1].is_enough:
        if nodes > max(_FINEST, _more(asked.nodes)) or first.count(nodes) > asked.most:
            break
        finer = _by_nodes(asked, nodes, naming, known=first)
        found.append(replace(finer, error=_apart(finer, found[-1])))
        nodes = nodes * 3 // 2
    last = found[-1]
    if last.is_enough:
        return last
    if len(found) > 2:  # of errors that fall slowly, the last difference is no bound
        last = replace(last, error=2 * torch.maximum(last.error, _apart(last, found[-3])))
    return min([last, *_by_panels(asked, last)], key=lambda each: each.reached)


def _more(nodes: int) -> int:
    """Return of how many nodes a rule is compared with one of so many."""
    return -(-5 * nodes // 4)


def _apart(a: Answer, b: Answer) -> Tensor:
    return (a.exact - b.exact).abs() + (a.mean - b.mean).abs()


def _by_panels(asked: Asked, known: Answer) -> list[Answer]:
    """Return an answer by panels, if there are not too many."""
    leaves = list(known.named.values())
    wanted = known.allowed * known.scale / 2
    panels = Panels(wanted, max(known.integrals, 1))
    try:
        truth = truth_by_panels(asked.run, leaves, asked.order, panels, asked.most)
        found = asked.moments(leaves, panels=panels)
    except TooManyOutcomesError:
        return []
    moments = found.mean, found.variance, truth.error + found.error, found.evaluations
    count = max(found.outcomes, len(truth.ways))
    rest = known.sizes, known.integrals, known.allowed
    return [Answer(known.named, truth.value, *moments, count, 0, *rest)]
