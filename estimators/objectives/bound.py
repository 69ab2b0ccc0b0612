"""Bound: a function of the log-weights of K draws, and the surrogate of its expectation.

        B = Σ_n f(log w_1[n], ..., log w_K[n]),   c_k = ∂f / ∂ log w_k

        ∇ E[B] = E[ Σ_k c_k ∇ log w_k + Σ_k (f - f_(-k)) Σ_i ∇ log q(z_ki) ]

over the sites i that are scored, each element with the examples that it reaches. f_(-k) is f with
the mean of the other log-weights in the place of the k-th, which does not depend on draw k: Mnih
and Rezende (2016), "Variational inference for Monte Carlo objectives", equation 8 (VIMCO). The
first sum goes along the paths of the other sites, as in `ancestral.estimators.objectives.paths`.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import Choices as SiteChoices
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice, chosen
from ancestral.estimators.gradient.loss_pytree import LossError
from ancestral.estimators.gradient.problem import Problem, problem_of
from ancestral.estimators.gradient.subtraction import Baselines, check_baseline
from ancestral.estimators.gradient.surrogate import surrogate_of
from ancestral.estimators.inference.bound_value import bound_value
from ancestral.estimators.inference.importance import WeightError
from ancestral.estimators.objectives.log_mean import LogMean
from ancestral.estimators.objectives.log_weights import Draws, followed, released
from ancestral.estimators.objectives.paths import (
    Pathwise,
    apart,
    check_pathwise,
    correction,
    refuse_shared,
)
from ancestral.provenance.tensor.tensor import alias, attach, provenance, untrack
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.compile import eagerly

Function = Callable[[Tensor], Tensor]
"""Takes log-weights, [K, ...], and returns the bound of each example, [...]."""


@dataclass(frozen=True)
class Bound:
    """An estimate of an objective, and what trains by it.

    Attributes:
        value: the estimate, to be reported; [], detached.
        surrogate: the scalar to call ``backward()`` on and to be minimized; [].
        log_weights: log p(x, z) - log q(z) of each draw; [particles, *examples], detached. Data
            that depends on no draw, and is outside of the plates of the examples, is not in it.
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

        A bound of one draw has no others, and what the elements predict instead.
        """
        given: Any = self.baseline
        if isinstance(given, str) and given == "vimco":
            return "auto" if is_single else None
        found: Baselines = given
        return found


def bound_of(draws: Draws, function: Function, choices: Choices) -> Bound:
    """Return a function of log-weights, and what to minimize for its expectation to be large.

    Args:
        draws: what is to be drawn.
        function: the function.
        choices: how the sites get their gradients.
    """
    runs = draws.made()
    log_weights = torch.cat([untrack(run.log_w).detach() for run in runs])
    found = Derivatives.of(log_weights, function)
    parts = [Part(run.log_w, run.names, run.scale) for run in runs]
    total = _surrogate(parts, found, choices)
    constant = untrack(runs[0].constant)
    value = found.value.sum() * runs[0].scale + constant.detach()
    total = total - constant
    value, total, log_weights = released(runs, value, total - total.detach() - value, log_weights)
    return Bound(bound_value(value), total, log_weights)


@eagerly
def of_log_weights(
    log_weights: Tensor,
    function: Function | None = None,
    *,
    baseline: AnyBaselines = "vimco",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    pathwise: Pathwise = "auto",
) -> Bound:
    """Return a bound of log-weights that were computed in a recording, and what to minimize.

        Σ_n f(log w_1[n], ..., log w_K[n])

    For models in plain torch: draw K times at once, and compute log p(x, z) - log q(z) of each::

        with an.record():
            z = q.sample((K,))                                          # [K, examples, ...]
            log_w = log_joint(z) - q.log_prob(z).sum(-1)                # [K, examples]
        an.infer.of_log_weights(log_w).surrogate.backward()

    Value and gradient are unbiased for the expectation of the sum. The estimators are those of
    `ancestral.infer.iwae`; a learned draw that all K share is refused if it is scored, and has the
    plain gradient else.

    Args:
        log_weights: the log-weights, [K, *examples].
        function: takes log-weights, [K, ...], and returns what is to be large, [...]; by default
            the logarithm of the mean weight, as in `ancestral.infer.iwae`.
        baseline: see `ancestral.infer.iwae`, also for the rest.
        estimator: as there.
        credit: as there.
        pathwise: as there.

    Raises:
        TypeError: if `log_weights` is no tensor, or `function` none.
        LossError: if `log_weights` has no dimension, or depends on no draw of a recording.
        WeightError: if they are not finite, or a draw that is scored reaches several of the K.
        ValueError: if `function` returns another shape, or a choice is none, or none for K draws.
    """
    checked = LogMean() if function is None else checked_function(function)
    choices = Choices(baseline, estimator, credit, pathwise)
    if not isinstance(log_weights, Tensor):
        raise TypeError(f"log_weights must be a tensor, not {kind_of(log_weights)}")
    sources, plain = provenance(log_weights), untrack(log_weights).detach()
    if not plain.ndim or not len(plain) or sources is None:
        raise LossError(
            f"log_weights has shape {list(plain.shape)}"
            + ("" if sources is not None else " and depends on no draw of a recording")
            + "; expected [K, *examples], one for each draw of a guide, computed within "
            "`with an.record():`"
        )
    if not bool(plain.isfinite().all()):
        raise WeightError(
            f"{int((~plain.isfinite()).sum())} of {plain.numel()} log-weights are NaN or infinite; "
            "keep the parameters finite, and the draws of the guide in the support of the model"
        )
    found = Derivatives.of(plain, checked)
    total, value = _surrogate([Part(log_weights, None, 1.0)], found, choices), found.value.sum()
    known = [sources] if sources.universe.state == "open" else []
    results = (value, total - total.detach() - value, plain)
    value, total, plain = (followed(each, known) for each in results)
    return Bound(bound_value(value), total, plain)


def checked_function(function: Function) -> Function:
    """Return a function of the user, whose results are looked at.

    Raises:
        TypeError: if it is none.
        ValueError: within it, if it returns another shape.
    """
    if not callable(function):
        raise TypeError(f"function must be a function of log-weights, not {kind_of(function)}")

    def checked(log_weights: Tensor) -> Tensor:
        found: object = function(log_weights)
        if not isinstance(found, Tensor) or found.shape != log_weights.shape[1:]:
            raise ValueError(
                f"function returned {short(found)} for log-weights of shape "
                f"{list(log_weights.shape)}; expected a tensor of shape "
                f"{list(log_weights.shape[1:])}, without the first dimension"
            )
        return found

    return checked


class Part(NamedTuple):
    """Log-weights of one recording, tracked, [draws, *examples], and how often each counts.

    `names` are the draws whose log-probabilities are in them, None for all.
    """

    log_w: Tensor
    names: Collection[str] | None
    scale: float


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


def _surrogate(parts: Sequence[Part], found: Derivatives, choices: Choices) -> Tensor:
    """Return what is minimized, up to a constant."""
    total, at = torch.zeros(()), 0
    is_single = len(found.slope) == 1
    baseline = choices.over_others(is_single)
    for part in parts:
        rows = slice(at, at + len(part.log_w))
        at = rows.stop
        slope, bend = -part.scale * found.slope[rows], -part.scale * found.bend[rows]
        cost = -part.scale * (found.value - found.others[rows])
        log_w, sources = untrack(part.log_w), provenance(part.log_w)
        live = slope * log_w
        if sources is None or not torch.is_grad_enabled():
            total = total + live.sum()
            continue
        term = attach(alias(cost + live - live.detach()), sources)
        problem = problem_of(term.sum(), None)
        problem, estimate = chosen(problem, choices.estimator, choices.credit)
        if not is_single:
            _refuse_others(problem, choices, len(log_w))
        names = part.names
        if names is None:
            names = apart(problem, log_w)
            refuse_shared(problem, names)
        total = total + untrack(surrogate_of(problem, estimate, baseline))
        correct = correction(problem, names, log_w, slope, bend, choices.pathwise, is_single)
        total = total + correct
    return total


def _refuse_others(problem: Problem, choices: Choices, rows: int) -> None:
    """Raise where the costs of other draws would count for one: each holds f, which all reach.

    Raises:
        ValueError: at the first site that is scored with such a choice.
    """
    baselines = SiteChoices("baseline", choices.over_others(is_single=False), "auto")
    credit = SiteChoices("credit", choices.credit, by_element)
    for node in problem.upstream:
        if node not in problem.scored:
            continue
        where = f"site {node.name!r} ({node.location})"
        if baselines.of(node) is not None:
            raise ValueError(
                f"{where}: baseline={short(baselines.of(node))} is for a bound of one draw: the "
                "costs of several all hold the bound, which each draw reaches, so that what others "
                "cost depends on it; expected 'vimco', the default, or None"
            )
        if rows > 1 and credit.of(node) is not by_element:
            raise ValueError(
                f"{where}: credit={short(credit.of(node))} gives each draw the costs of the others "
                "too, which all hold the bound; expected an.estimators.by_element, the default, or "
                "draws one after the other, with vectorized=False"
            )
