"""Particle filter: many runs of a sequence at once, which are resampled on the way.

>>> import torch
>>> from torch.distributions import Normal
>>> _ = torch.manual_seed(0)
>>> def initial(particles, x):
...     z = Normal(0.0, 1.0).sample((particles,))
...     return z, Normal(z, 1.0).log_prob(x)
>>> def step(z, x):
...     z = Normal(z, 1.0).sample()
...     return z, Normal(z, 1.0).log_prob(x)
>>> found = particle_filter(initial, step, torch.tensor([0.3, 1.2]), particles=5000)
>>> found.log_weights.shape
torch.Size([2, 5000])
>>> truth = torch.distributions.MultivariateNormal(
...     torch.zeros(2), torch.tensor([[2.0, 1.0], [1.0, 3.0]])
... ).log_prob(torch.tensor([0.3, 1.2]))
>>> bool((found.log_evidence - truth).abs() < 0.1)
True
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.sequences.resampling import SCHEMES, WITH_SCORE, Resampling, ancestors
from ancestral.provenance.tensor.tensor import untrack
from ancestral.provenance.tensor.torch_internals import tree_flatten_with_path, tree_map
from ancestral.trace.context.argument_checks import check_count, check_function, kind_of, short


class ParticleError(ValueError):
    """A step of a particle filter returned no particles with weights, or none that has a weight."""


@dataclass(frozen=True, eq=False, repr=False)
class Filtered:
    """What a particle filter leaves behind.

    Attributes:
        log_evidence: the logarithm of an unbiased estimate of p(x_1, ..., x_T), [*batch].
        log_weights: those of the particles of each step given the data so far, normalized,
            [T, K, *batch].
        states: what the steps returned, with the ancestry that they were computed from: T of them.
    """

    log_evidence: Tensor
    log_weights: Tensor
    states: tuple[Any, ...]

    @property
    def effective_sample_size(self) -> Tensor:
        """How many draws from the posterior the particles of a step are worth, [T, *batch].

        1 / Σ_k W_k². Kong, Liu and Wong (1994), "Sequential imputations", section 4.1.
        """
        return _effective(self.log_weights, 1)

    def __repr__(self) -> str:
        """Show the steps, the particles, and how many of these have a say at the worst step."""
        steps, particles, *batch = self.log_weights.shape
        of_batch = f" of a batch {batch}" if batch else ""
        return (
            f"Filtered({steps} steps of {particles} particles{of_batch}, "
            f"effective_sample_size>={untrack(self.effective_sample_size).min().item():.1f})"
        )


Initial = Callable[[int, Any], tuple[Any, Tensor]]
Step = Callable[[Any, Any], tuple[Any, Tensor]]


def particle_filter(
    initial: Initial,
    step: Step,
    observations: Tensor | Iterable[Any],
    *,
    particles: int,
    resampling: Resampling = "multinomial",
    ess_threshold: float = 1.0,
    resampling_gradient: bool | None = None,
) -> Filtered:
    """Run K particles through a sequence, resampled in proportion to their weights.

        log Ẑ = Σ_t log Σ_k W_{t-1}^k w_t^k,   E[Ẑ] = p(x_1, ..., x_T)

    W_{t-1} are the normalized weights before step t, all 1/K if the particles were resampled, and
    w_t what the step weighs: of a proposal q, p(z_t | z_{t-1}) p(x_t | z_t) / q(z_t). The steps are
    plain torch code, whose particles stand along the first dimension. Within a recording their
    draws are sites, and so are the ancestors: `an.backward` of the evidence gives each its score.
    Gordon, Salmond and Smith (1993), "Novel approach to nonlinear/non-Gaussian Bayesian state
    estimation"; Maddison et al. (2017), "Filtering variational objectives", algorithm 1.

    Args:
        initial: called with the number of particles and the first observation; returns the state,
            tensors [K, *batch, ...] in any nesting, and the log weights, [K, *batch].
        step: called with the state and the next observation; returns the same.
        observations: of the steps, in order: [T, ...], or anything that can be gone through.
        particles: how many, K.
        resampling: how the ancestors of the particles are drawn together: "multinomial",
            "stratified" or "systematic".
        ess_threshold: resample a sequence where the effective sample size of its particles is below
            this part of K: by default at each step, at 0 never. Between the two the decision
            depends on the weights, so that what is drawn by ``rsample`` gets its score function for
            the terms after it: unbiased, with more variance, and slower. One sequence is decided by
            Python, a batch by a mask.
        resampling_gradient: whether the ancestors depend on the weights by a score. By default,
            where the scheme has one of finite variance: of "multinomial". Without it the ancestors,
            and the decision to resample, are taken as given: the gradient is biased, and has less
            variance.

    Raises:
        TypeError: if `initial` or `step` is no function, or `particles` no int.
        ValueError: for a scheme or a threshold that there is none of; for a resampling gradient of
            a scheme that has none; if there are no observations.
        ParticleError: if a step returns no state with weights, weights that are NaN or +inf, or of
            which all are zero.
    """
    check_function("particle_filter", initial)
    check_function("particle_filter", step)
    check_count("particles", particles)
    has_score = _check_resampling(resampling, ess_threshold, resampling_gradient)
    going_on = partial(_going_on, scheme=resampling, threshold=ess_threshold, has_score=has_score)
    terms: list[Tensor] = []
    weights: list[Tensor] = []
    states: list[Any] = []
    before: Tensor | float = -math.log(particles)
    for number, observation in enumerate(observations):
        if number == 0:
            called, found = "initial", initial(particles, observation)
        else:
            state, before = going_on(states[-1], weights[-1])
            called, found = f"step (of observation {number})", step(state, observation)
        state, log_weight = _checked(called, found, particles, weights)
        joint = before + log_weight
        term = torch.logsumexp(joint, 0)
        _refuse_zeros(called, term)
        terms.append(term)
        weights.append(joint - term)
        states.append(state)
    if not terms:
        raise ValueError("observations has no step; expected at least one, along the first dim")
    return Filtered(torch.stack(terms).sum(0), torch.stack(weights), tuple(states))


def _check_resampling(scheme: str, threshold: float, wanted: bool | None) -> bool:
    """Return whether the ancestors have a score."""
    if scheme not in SCHEMES:
        names = ", ".join(map(repr, SCHEMES))
        raise ValueError(f"resampling must be one of {names}, not {short(scheme)}")
    is_number = isinstance(threshold, int | float) and not isinstance(threshold, bool)
    if not (is_number and 0 <= threshold <= 1):
        raise ValueError(
            "ess_threshold must be a part of the particles, from 0 (never resample) to 1 (at each "
            f"step), not {short(threshold)}"
        )
    if wanted not in (None, True, False):
        raise ValueError(f"resampling_gradient must be True, False or None, not {short(wanted)}")
    has_score = scheme in WITH_SCORE
    if wanted and not has_score:
        raise ValueError(
            f"{scheme} resampling has no score of finite variance: the probability of its ancestors"
            " is the length of an interval, which can be as short as it likes; take "
            'resampling="multinomial", or leave the gradient out by resampling_gradient=False'
        )
    return has_score if wanted is None else wanted


def _going_on(
    state: Any, weights: Tensor, *, scheme: Resampling, threshold: float, has_score: bool
) -> tuple[Any, Tensor | float]:
    """Return the particles of a step as the next begins with them, and their log weights then."""
    count = weights.shape[0]
    if threshold == 0:
        return state, weights
    if threshold == 1:
        chosen = ancestors(weights if has_score else weights.detach(), scheme)
        return _taken(state, chosen), -math.log(count)
    with torch.no_grad():
        is_due = _effective(weights if has_score else untrack(weights), 0) < threshold * count
    if weights.dim() == 1:  # one sequence: Python decides, and what comes after is credited
        if not is_due:
            return state, weights
        chosen = ancestors(weights if has_score else weights.detach(), scheme)
        return _taken(state, chosen), -math.log(count)
    # Ancestors that nobody takes need no score, which would be noise.
    scored = torch.where(is_due, weights, weights.detach()) if has_score else weights.detach()
    own = torch.arange(count, device=weights.device).reshape(-1, *(1,) * (weights.dim() - 1))
    chosen = torch.where(is_due, ancestors(scored, scheme), own)
    return _taken(state, chosen), torch.where(is_due, -math.log(count), weights)


def _taken(state: Any, chosen: Tensor) -> Any:
    """Return the state of the ancestors [K, *batch]."""

    def of(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if chosen.dim() == 1:
            return leaf.index_select(0, chosen)
        index = chosen.reshape(*chosen.shape, *(1,) * (leaf.dim() - chosen.dim()))
        return leaf.gather(0, index.expand(leaf.shape))

    return tree_map(of, state)


def _effective(log_weights: Tensor, dim: int) -> Tensor:
    return torch.exp(-torch.logsumexp(2 * log_weights, dim))


def _checked(called: str, found: Any, particles: int, before: list[Tensor]) -> tuple[Any, Tensor]:
    """Return the state and the log weights that a step returned.

    Raises:
        ParticleError: if it returned something else.
    """
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Tensor)):
        raise ParticleError(
            f"{called} returned {kind_of(found)}; expected the state and the log weights of the "
            "particles, such as `return z, log_weight`"
        )
    state, log_weight = found
    shape = tuple(log_weight.shape)
    wanted = tuple(before[0].shape) if before else (particles, *shape[1:])
    if shape != wanted or not log_weight.is_floating_point():
        raise ParticleError(
            f"{called} returned log weights of shape {list(shape)}, {log_weight.dtype}; expected "
            f"floating-point numbers of shape {list(wanted)}, one for each particle"
            f"{' and sequence, as the step before' if before else ''}: sum the log-probabilities "
            "over all other dimensions"
        )
    for path, leaf in tree_flatten_with_path(state)[0]:
        if isinstance(leaf, Tensor) and tuple(leaf.shape[: len(shape)]) != shape:
            at = "".join(map(str, path))
            raise ParticleError(
                f"{called} returned a state whose tensor{f' at {at}' if at else ''} has shape "
                f"{list(leaf.shape)}; expected its first dimensions to be {list(shape)}, as those "
                "of the log weights: the particles, and the sequences of a batch; hold what all "
                "particles share outside of the state"
            )
    return state, log_weight


def _refuse_zeros(called: str, term: Tensor) -> None:
    plain = untrack(term).detach()
    if bool(plain.isfinite().all()):
        return
    what = (
        "all -inf: no particle can have come to this observation"
        if bool((plain == -math.inf).any())
        else f"not all numbers: their sum is {plain[~plain.isfinite()].flatten()[0].item()}"
    )
    raise ParticleError(
        f"the log weights of {called} are {what}; take more particles or a nearer proposal, "
        "and keep the parameters of the distributions finite"
    )
