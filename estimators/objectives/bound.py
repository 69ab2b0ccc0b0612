"""Bound: a function of the log-weights of K draws, and the surrogate of its expectation.

        B = Σ_n f(log w_1[n], ..., log w_K[n]),   c_k = ∂f / ∂ log w_k

        ∇ E[B] = E[ Σ_k c_k ∇ log w_k + Σ_k (f - f_(-k)) Σ_i ∇ log q(z_ki) ]

over the sites i that are scored, each element with the examples that it reaches. f_(-k) is f with
the mean of the other log-weights in the place of the k-th, which does not depend on draw k: Mnih
and Rezende (2016), "Variational inference for Monte Carlo objectives", equation 8 (VIMCO). The
first sum goes along the paths of the other sites, as in `ancestral.estimators.objectives.paths`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice, chosen
from ancestral.estimators.gradient.problem import problem_of
from ancestral.estimators.gradient.subtraction import Baselines, check_baseline
from ancestral.estimators.gradient.surrogate import surrogate_of
from ancestral.estimators.inference.bound_value import bound_value
from ancestral.estimators.objectives.log_mean import LogMean
from ancestral.estimators.objectives.log_weights import Draws, Weighted, released
from ancestral.estimators.objectives.paths import Pathwise, check_pathwise, correction
from ancestral.provenance.tensor.tensor import alias, attach, provenance, untrack

Function = Callable[[Tensor], Tensor]
"""Takes log-weights, [K, ...], and returns the bound of each example, [...]."""


@dataclass(frozen=True)
class Bound:
    """An estimate of an objective, and what trains by it.

    Attributes:
        value: the estimate, to be reported; [], detached.
        surrogate: the scalar to call ``backward()`` on and to be minimized; [].
        log_weights: log p(x, z) - log q(z) of each draw; [particles, *examples], detached.
    """

    value: Tensor
    surrogate: Tensor
    log_weights: Tensor


AnyBaselines = Baselines | Literal["vimco"]


@dataclass(frozen=True)
class Choices:
    """How the sites get their gradients: see `ancestral.backward`."""

    baseline: AnyBaselines
    estimator: PerSite[Choice]
    credit: PerSite[Estimator]
    pathwise: Pathwise

    def __post_init__(self) -> None:
        """Check them."""
        check_baseline(self.over_others(is_single=True))
        check_pathwise(self.pathwise)

    def over_others(self, is_single: bool) -> Baselines:
        """Return what is subtracted besides the bound of the other draws.

        A bound of one draw has no others, and what the elements foretell instead.
        """
        given: Any = self.baseline
        if isinstance(given, str) and given == "vimco":
            return "auto" if is_single else None
        found: Baselines = given
        return found


def bound_of(draws: Draws, function: Function, choices: Choices, sign: Literal[1, -1] = 1) -> Bound:
    """Return a function of log-weights, with a surrogate that maximizes its expectation.

    Args:
        draws: what is to be drawn.
        function: the function.
        choices: how the sites get their gradients.
        sign: 1 for what is maximized, -1 for what is minimized.
    """
    runs = draws.made()
    log_weights = torch.cat([_plain(run) for run in runs])
    found = Derivatives.of(log_weights, function)
    total = _surrogate(runs, found, choices, sign)
    released(runs)
    scale = runs[0].scale
    value = found.value.sum() * scale
    return Bound(bound_value(value), total - total.detach() - sign * value, log_weights)


def _plain(run: Weighted) -> Tensor:
    return untrack(run.log_p - run.log_q).detach()


@dataclass(frozen=True, eq=False)
class Derivatives:
    """A function at some log-weights.

    Attributes:
        value: f, [*examples].
        slope: the derivative by each log-weight, [K, *examples].
        bend: the second derivative by each, [K, *examples].
        others: f with the mean of the others in the place of each, [K, *examples]; zero if K = 1.
    """

    value: Tensor
    slope: Tensor
    bend: Tensor
    others: Tensor

    @classmethod
    def of(cls, log_weights: Tensor, function: Function) -> "Derivatives":
        """Return the derivatives of a function that goes along the first dimension."""
        if isinstance(function, LogMean):
            return cls(function(log_weights), *function.derivatives(log_weights))
        count = len(log_weights)
        with torch.enable_grad():
            pieces = [
                _along_own(log_weights, function, own)
                for own in torch.arange(count).split(max(1, _AT_ONCE // log_weights.numel()))
            ]
        slope, bend, others = (torch.cat(each) for each in zip(*pieces, strict=True))
        return cls(function(log_weights), slope, bend, others)


_AT_ONCE = 2**22


def _along_own(log_weights: Tensor, function: Function, own: Tensor) -> tuple[Tensor, ...]:
    """Return both derivatives by the log-weights of these numbers, and f without them."""
    count, copies = len(log_weights), len(own)
    # A copy for each of them, [K, copies, *examples].
    wide = log_weights.unsqueeze(1).expand(count, copies, *log_weights.shape[1:])
    at = own, torch.arange(copies)
    x = wide.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    first = slope[at]
    second = torch.zeros_like(x)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), x, materialize_grads=True)
    less = torch.zeros_like(first)
    if count > 1:
        means = (log_weights.sum(0) - log_weights[own]) / (count - 1)
        less = function(wide.clone().index_put_(at, means))
    return first.detach(), second[at].detach(), less.detach()


def _surrogate(runs: Sequence[Weighted], found: Derivatives, choices: Choices, sign: int) -> Tensor:
    """Return what is minimized, up to a constant."""
    total, at = torch.zeros(()), 0
    is_single = len(found.slope) == 1
    baseline = choices.over_others(is_single)
    for run in runs:
        rows = slice(at, at + len(run.log_p))
        at = rows.stop
        weight = -sign * run.scale
        slope, bend = weight * found.slope[rows], weight * found.bend[rows]
        cost = weight * (found.value - found.others[rows])
        live = slope * untrack(run.log_p - run.log_q)
        sources = provenance(run.log_p - run.log_q)
        if sources is None or not torch.is_grad_enabled():
            total = total + live.sum()
            continue
        term = attach(alias(cost + live - live.detach()), sources)
        problem = problem_of(term.sum(), None)
        problem, estimate = chosen(problem, choices.estimator, choices.credit)
        total = total + untrack(surrogate_of(problem, estimate, baseline))
        total = total + correction(run, problem, slope, bend, choices.pathwise, is_single)
    return total
