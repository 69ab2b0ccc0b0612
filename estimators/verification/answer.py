"""Answers: the truth and the moments of an estimate, each by quadratures until they agree."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.rerun.estimate import Plan
from ancestral.estimators.rerun.moments import (
    Moments,
    Panels,
    derivatives,
    moments_of,
    truth_by_panels,
    truth_of,
)
from ancestral.estimators.rerun.outcomes import NODES, TooManyOutcomesError

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

    def allowed(self, dtype: torch.dtype) -> float:
        """Return what a mean may be off, relative to the scale."""
        if self.tolerance is not None:
            return self.tolerance
        return _EXACT if dtype == torch.float64 else _SINGLE

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
        is_exact: whether nothing is continuous.
        integrals: over how much noise, of how many sites and outcomes, the mean is an integral.
    """

    named: dict[str, Tensor]
    exact: Tensor
    mean: Tensor
    variance: Tensor
    error: Tensor
    evaluations: float
    outcomes: int
    nodes: int
    is_exact: bool
    integrals: int

    @property
    def scale(self) -> float:
        """The largest derivative or standard deviation."""
        return max(float(self.exact.abs().max()), math.sqrt(float(self.variance.max())))

    @property
    def reached(self) -> float:
        """The largest error; infinite if it is unknown."""
        found = float(self.error.max())
        return found if found == found else math.inf

    def is_enough(self, asked: Asked) -> bool:
        """Return whether the error is as small as was asked for."""
        return self.reached <= asked.allowed(self.exact.dtype) * self.scale

    def reason(self, asked: Asked) -> str:
        """Return what was not reached, if it was not."""
        if self.is_enough(asked):
            return ""
        return (
            f"the quadrature is exact to {self.reached:.1g}, not to the "
            f"{asked.allowed(self.exact.dtype) * self.scale:.1g} that was asked for, with at most "
            f"{asked.most} outcomes; allow more (outcomes=), or take fewer elements or sites"
        )


def _by_nodes(asked: Asked, nodes: int, naming: Naming) -> Answer:
    """Return an answer whose error is unknown, unless nothing is continuous."""
    truth = truth_of(asked.run, nodes=nodes, most=asked.most)
    named = naming(truth.expected)
    leaves = list(named.values())
    exact = derivatives(truth.expected, leaves, asked.order)
    found = asked.moments(leaves, nodes=nodes, losses=truth.losses)
    is_exact = truth.is_exact and found.is_exact
    error = torch.full_like(exact, 0.0 if is_exact else math.inf)
    moments = found.mean, found.variance, error, found.evaluations
    count = max(found.outcomes, len(truth.losses))
    return Answer(named, exact, *moments, count, nodes, is_exact, found.integrals)


def refined(asked: Asked, naming: Naming) -> Answer:
    """Return the answer with the least error.

    First by Gaussian rules of more and more nodes, of which two that follow each other are
    compared, or three where they do not agree; then by panels.

    Raises:
        TooManyOutcomesError, NotEnumerableError: if the fewest nodes are too many.
    """
    found = [_by_nodes(asked, max(asked.nodes // 3, 1), naming)]
    while not found[-1].is_exact:
        finer = _finer(asked, found, naming)
        if finer is None:
            break
        found.append(replace(finer, error=_apart(finer, found[-1])))
        if finer.nodes >= asked.nodes and found[-1].is_enough(asked):
            break
    last = found[-1]
    if last.is_enough(asked):
        return last
    if len(found) > 2:  # of errors that fall slowly, the last difference is no bound
        last = replace(last, error=2 * torch.maximum(last.error, _apart(last, found[-3])))
    best = min([last, *_by_panels(asked, last)], key=lambda each: each.reached)
    if bool(best.error.isinf().any()):
        raise TooManyOutcomesError.of(asked.most)
    return best


def _finer(asked: Asked, found: Sequence[Answer], naming: Naming) -> Answer | None:
    """Return an answer by half as many nodes again, None if there are too many outcomes."""
    last, dims = found[-1], 1.0  # of how many numbers there is an outcome for each node
    if len(found) > 1:
        before = found[-2]
        dims = math.log(last.outcomes / before.outcomes) / math.log(last.nodes / before.nodes)
    nodes = -(-3 * last.nodes // 2)
    if nodes > _FINEST or last.outcomes * (nodes / last.nodes) ** dims > asked.most:
        return None
    try:
        return _by_nodes(asked, nodes, naming)
    except TooManyOutcomesError:
        return None


def _apart(a: Answer, b: Answer) -> Tensor:
    return (a.exact - b.exact).abs() + (a.mean - b.mean).abs()


def _by_panels(asked: Asked, known: Answer) -> list[Answer]:
    """Return an answer by panels, if there are not too many."""
    leaves = list(known.named.values())
    wanted = asked.allowed(known.exact.dtype) * known.scale / 2
    panels = Panels(wanted, max(known.integrals, 1))
    try:
        truth = truth_by_panels(asked.run, leaves, asked.order, panels, asked.most)
        found = asked.moments(leaves, panels=panels)
    except TooManyOutcomesError:
        return []
    moments = found.mean, found.variance, truth.error + found.error, found.evaluations
    count = max(found.outcomes, len(truth.ways))
    return [Answer(known.named, truth.value, *moments, count, 0, False, found.integrals)]
