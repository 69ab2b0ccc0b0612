"""Tail-adaptive divergence: weights by the rank of a draw, which no heavy tail can spoil.

>>> import torch
>>> rank_weights(torch.tensor([3.0, -100.0, 1.0]), -1.0)
tensor([0.5455, 0.1818, 0.2727])
"""

import math
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import by_element
from ancestral.estimators.gradient.estimator_choice import chosen
from ancestral.estimators.gradient.problem import problem_of
from ancestral.estimators.inference.bound_value import bound_value
from ancestral.estimators.inference.model_guide import GuideError, Program
from ancestral.estimators.objectives.bound import Bound
from ancestral.estimators.objectives.log_weights import Draws, Weighted, released
from ancestral.estimators.objectives.paths import own_and_foreign, paths_of
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.compile import eagerly


def rank_weights(log_weights: Tensor, power: float) -> Tensor:
    """Return weights that sum to one along the first dimension, by rank.

    r_k ∝ (1/K Σ_j 1[w_j ≥ w_k])^β
    """
    count = len(log_weights)
    # One at a time: all pairs would not fit into memory for many draws.
    tails = torch.stack([(log_weights >= each).sum(0) for each in log_weights]) / count
    weights = tails.to(log_weights.dtype).pow(power)
    return weights / weights.sum(0)


@eagerly
def tail_adaptive(
    model: Program,
    guide: Program,
    *args: Any,
    power: float = -1.0,
    particles: int = 2,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    **kwargs: Any,
) -> Bound:
    """Return the tail-adaptive f-divergence of a guide from the posterior, and what to minimize.

        ∇ = - Σ_n Σ_k r_kn ∂ log w_kn / ∂z_kn ∇z_kn,   r_k ∝ (1/K Σ_j 1[w_j ≥ w_k])^β,   z_k ~ q

    The weights are those of an f-divergence, with the one f for which their tail is light. The
    guide alone is learned, along the values of its sites, all of which are to be reparameterized.
    The value is the mean log-weight, the ELBO, which this does not maximize. The gradient is
    unbiased for nothing but its own mean over K draws, as the ranks are of these. Wang, Liu and Liu
    (2018), "Variational inference with tail-adaptive f-divergence", algorithm 1.

    Args:
        model: the program of p, as in `ancestral.infer.elbo`.
        guide: the program of q.
        args: what both are called with.
        power: the power of the tail, β, at most 0: 0 has all draws count alike.
        particles: how many draws, K.
        vectorized: see `ancestral.infer.iwae`.
        max_plate_nesting: as there.
        kwargs: what both are called with.

    Raises:
        ValueError: if `power` is above 0 or not finite, or `particles` no number above 1.
        TypeError: if a program is no function, or for a name of Pyro.
        GuideError: if a site is not reparameterized, or as `ancestral.infer.iwae`.
        WeightError: if a plate is subsampled that is not around all sites.
        NonFiniteDensityError: if the log-probability of a site is NaN or infinite.
    """
    is_number = isinstance(power, int | float) and not isinstance(power, bool)
    if not is_number or not math.isfinite(power) or power > 0:
        raise ValueError(f"power must be a finite number, at most 0, not {short(power)}")
    draws = Draws(
        model, guide, args, kwargs, particles, vectorized, max_plate_nesting, "tail_adaptive", 2
    )
    runs = draws.made()
    log_weights = torch.cat([untrack(run.log_w).detach() for run in runs])
    weights, at, total = rank_weights(log_weights, power), 0, torch.zeros(())
    for run in runs:
        count = len(run.log_p)
        total = total - _along(run, weights[at : at + count] * run.scale)
        at += count
    value = log_weights.mean(0).sum() * runs[0].scale + untrack(runs[0].constant).detach()
    found = released(runs, value, total - total.detach() - value, log_weights)
    return Bound(bound_value(found[0]), *found[1:])


def _along(run: Weighted, weights: Tensor) -> Tensor:
    """Return zero, with the gradient of weighted log-weights along the values of the draws."""
    total = (run.log_w * weights).sum()
    if not untrack(total).requires_grad:
        return torch.zeros(())
    problem, _ = chosen(problem_of(total, None), "auto", by_element)
    own, foreign = own_and_foreign(problem, run.names)
    for node in (*problem.scored, *foreign):
        raise GuideError(
            f"site {node.name!r} ({node.location}) is not reparameterized, or no site of the "
            "guide; expected draws of rsample by the guide, whose values log p(x, z) depends on "
            "smoothly; use an.infer.forward_kl or an.infer.iwae, which take others too"
        )
    return paths_of(untrack(total), own)
