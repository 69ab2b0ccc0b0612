"""ELBO: the evidence lower bound of a model and a guide, and the surrogate that trains both.

        ELBO = E_q[ Σ log p(x, z) - Σ log q(z) ]  ≤  log p(x)

It is maximized by minimizing the surrogate, in four lines of torch:

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> loc = torch.tensor(0.0, requires_grad=True)
>>> def model(x):
...     z = sample("z", Normal(0.0, 1.0))
...     sample("x", Normal(z, 1.0), obs=x)
>>> def guide(x):
...     sample("z", Normal(loc, 0.5**0.5))
>>> optimizer = torch.optim.SGD([loc], lr=0.05)
>>> for _ in range(100):
...     optimizer.zero_grad()
...     elbo(model, guide, torch.tensor(2.0)).surrogate.backward()
...     optimizer.step()
>>> bool((loc - 1.0).abs() < 0.5)  # the posterior is Normal(x / 2, 1/2)
True
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.declared_costs import non_finite_density
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice, chosen
from ancestral.estimators.gradient.problem import problem_of
from ancestral.estimators.gradient.subtraction import Baselines, check_baseline
from ancestral.estimators.gradient.surrogate import settle, surrogate_of
from ancestral.estimators.inference.bound_value import bound_value
from ancestral.estimators.inference.expected_terms import Term, terms_of
from ancestral.estimators.inference.model_guide import (
    Pair,
    Program,
    check_programs,
    refuse_mismatch,
    run,
)
from ancestral.estimators.inference.particles import nesting, together
from ancestral.estimators.inference.pyro_hints import PARTICLES, refuse
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.context.argument_checks import check_count, short
from ancestral.trace.context.compile import eagerly
from ancestral.trace.graph.argument_types import check_trace
from ancestral.trace.recording.record import record
from ancestral.trace.recording.trace import Trace


@dataclass(frozen=True)
class Elbo:
    """An estimate of the evidence lower bound.

    Attributes:
        value: the estimate itself, to be reported: higher is better; [], detached.
        surrogate: the scalar to call ``backward()`` on and to be minimized; []. Its value is that
            of ``-value``, its gradient an unbiased estimate of that of the negative bound. Within
            `an.compile` it is the loss, which gets its scores there.
    """

    value: Tensor
    surrogate: Tensor


@eagerly
def elbo(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int = 1,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    baseline: Baselines = "auto",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    **kwargs: Any,
) -> Elbo:
    """Run a guide, and a model under its values, and return the bound and what to minimize.

        ELBO = 1/K Σ_k [ Σ log p(x, z_k) - Σ log q(z_k) ],   z_k ~ q
        ∇ -ELBO = E[ ∇L + Σ_i Σ_s ∇ log q(z_i[s]) (Σ_{(j,t) downstream of (i,s)} c_j[t] - b_i[s]) ]

    The costs c are the log-probabilities of all sites, element by element, as their masks and
    scales say: each element of a site gets those that it can influence. Both lines are unbiased.
    An `an.factor` counts as an observed site; `an.cost` has no place in a density and is refused.
    What torch itself draws in either program is noise: the bound is an average over it.

    Programs may run within `an.handlers.enumerate`, each in its own block, or both in one. Of
    what the guide enumerates, the bound is the exact expectation, and what the model alone
    enumerates is summed out of its density: log Σ_w p(x, z, w). Neither is left to chance, so that
    it has no score.
    Ranganath, Gerrish and Blei (2014), "Black box variational inference", section 3; Schulman et
    al. (2015), "Gradient estimation using stochastic computation graphs", theorem 1.

    Args:
        model: the program of p, which observes the data.
        guide: the program of q, which draws what the model draws, by the same names, and observes
            nothing. Its sites with ``infer={"is_auxiliary": True}`` may be missing from the model;
            those of the model from the guide: they are drawn from their prior and do not count. So
            may those that the model enumerates, which are summed out.
        args: what both are called with.
        particles: how many draws of the guide, K.
        vectorized: run all of them at once, in a plate to the left of all others, instead of one
            after the other. Both programs must do with one more dimension, and Python may read no
            value that differs among the particles.
        max_plate_nesting: how many dimensions, from the right, the batches of the programs have
            without the particles. Only if `vectorized`; by default one run without them tells.
        baseline: what is subtracted from the costs of each site; the default uses the other
            particles too, if `vectorized`. See `an.backward`, also for the next two.
        estimator: how a site drawn by ``rsample`` gets its gradient.
        credit: which costs count for a site.
        kwargs: what both are called with.

    Raises:
        ValueError: if `particles` is no positive number, or `max_plate_nesting` a negative one.
        TypeError: if a program is no function, or for a keyword that is Pyro's name of an argument
            of this, and no parameter of a program.
        GuideError: if the sites of the two do not match.
        NonFiniteDensityError: if the log-probability of a site is NaN or infinite.
        EnumerationError: if what is enumerated cannot be summed out.
        SiteError: for what else is wrong with a site, or particles that cannot run at once.
    """
    choices = (estimator, credit, baseline)
    draws = (particles, vectorized, max_plate_nesting)
    return estimated("elbo", _loss, (model, guide), args, kwargs, draws, choices)


Choices = tuple[PerSite[Choice], PerSite[Estimator], Baselines]
LossOf = Callable[[Pair], Tensor]


def estimated(
    verb: str,
    loss_of: LossOf,
    programs: tuple[Program, Program],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    draws: tuple[int, bool, int | None],
    choices: Choices,
) -> Elbo:
    """Return the bound whose loss is a function of the runs of a guide and a model.

    The arguments are those of `elbo`, whose errors these are.
    """
    check_programs(verb, *programs)
    check_baseline(choices[2])
    refuse(verb, programs, kwargs, PARTICLES)
    particles, vectorized, dims = draws
    check_count("particles", particles)
    check_nesting(dims)
    if _steps.are_to_score and particles > 1 and not (vectorized and dims is not None):
        raise ValueError(
            "within an.compile particles run at once: pass vectorized=True and max_plate_nesting="
        )
    once = partial(run, *programs, *args, **kwargs)
    if vectorized:
        dims = nesting(once) if dims is None else dims
        with record(control="after") as trace:
            pair = together(once, particles, dims)
        return _estimate(trace, loss_of(pair) / particles, choices)
    found = [_single(once, loss_of, choices) for _ in range(particles)]
    if particles == 1:
        return found[0]
    return Elbo(
        bound_value(torch.stack([each.value for each in found]).mean()),
        torch.stack([each.surrogate for each in found]).mean(),
    )


def check_nesting(dims: object) -> None:
    """Raise a ValueError unless a number of dimensions is one, or None."""
    if dims is not None and (not isinstance(dims, int) or isinstance(dims, bool) or dims < 0):
        raise ValueError(
            f"max_plate_nesting must be an int, not negative, or None, not {short(dims)}"
        )


def refuse_compiled(verb: str) -> None:
    """Raise a TypeError within a compiled step, which scores the terms of a sum only."""
    if _steps.are_to_score:
        raise TypeError(
            f"within an.compile, an.infer.{verb} is none of the losses that a step gives its "
            "scores, which are sums of terms; call it outside, or use an.infer.elbo"
        )


def negative_elbo(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """Return the loss of one run of a guide, and of a model under its values, [].

        L = Σ log q(z) - Σ log p(x, z)

    It carries its provenance, so that `an.surrogate` and `an.backward` can take it apart into the
    log-probabilities of the sites. Both traces are of one recording around both::

        with an.record():
            with an.record() as guide_trace:
                guide()
            with an.record() as model_trace, an.handlers.replay(guide_trace):
                model()
        loss = negative_elbo(model_trace, guide_trace)

    Raises:
        TypeError: if one of them is no trace.
        GuideError: if the sites of the two do not match.
        NonFiniteDensityError: if the log-probability of a site is NaN or infinite.
        EnumerationError: if what is enumerated cannot be summed out.
    """
    check_trace("negative_elbo", model_trace, guide_trace)
    return _loss(Pair(model_trace, guide_trace))


def _loss(pair: Pair) -> Tensor:
    refuse_mismatch(pair)
    return summed(tuple(terms_of(pair)))


def summed(terms: Sequence[Term]) -> Tensor:
    """Return the sum of the terms of a loss, [].

    Raises:
        NonFiniteDensityError: if the log-probability of a site is NaN or infinite.
    """
    parts = [term.value for term in terms]
    loss = sum(parts[1:], parts[0]) if parts else torch.zeros(())
    if not _is_finite(loss):
        _refuse_non_finite(terms)
    return loss


def _single(once: Callable[[], Pair], loss_of: LossOf, choices: Choices) -> Elbo:
    # All sites count, whatever Python decides later: what was said before is not blurred.
    with record(control="after") as trace:
        pair = once()
    return _estimate(trace, loss_of(pair), choices)


def _estimate(trace: Trace, loss: Tensor, choices: Choices) -> Elbo:
    """Return the bound of a loss, and let go of its recording, if it is not a part of another."""
    if _steps.are_to_score and provenance(loss) is not None:
        return Elbo(bound_value(-loss.detach()), _plainly_chosen(loss, choices))
    scalar = untrack(loss)
    if provenance(loss) is not None and torch.is_grad_enabled():
        estimator, credit, baseline = choices
        scalar = surrogate_of(*chosen(problem_of(loss, None), estimator, credit), baseline)
    if trace.universe.owner is trace:  # else the value is tracked
        # What autograd saves knows its recording, in a circle that Python cannot see through.
        settle(trace)
        loss = untrack(loss)
    return Elbo(bound_value(-loss.detach()), scalar)


class _Steps(threading.local):
    """Whether a compiled step of this thread runs its loss, and gives it the scores itself."""

    are_to_score = False


_steps = _Steps()


@contextmanager
def scored_later() -> Iterator[None]:
    """Let the surrogate of a bound be its loss, tracked, within the block."""
    before, _steps.are_to_score = _steps.are_to_score, True
    try:
        yield
    finally:
        _steps.are_to_score = before


def _plainly_chosen(loss: Tensor, choices: Choices) -> Tensor:
    """Return a loss that gets its scores from a compiled step.

    Raises:
        TypeError: if the bound is given what the step is to be given.
    """
    if choices != ("auto", by_element, "auto"):
        raise TypeError(
            "within an.compile, an.infer.elbo leaves the scores to the step: give baseline=, "
            "estimator= and credit= to an.compile"
        )
    return loss


def _is_finite(value: Tensor) -> bool:
    return bool(torch.isfinite(untrack(value).detach()).all())


def _refuse_non_finite(terms: Sequence[Term]) -> None:
    for term in terms:
        if not _is_finite(term.value):
            raise non_finite_density(term.node, term.program)
