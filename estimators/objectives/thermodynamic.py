"""Thermodynamic variational objective: a sum along the path from the guide to the posterior.

        log p(x) = ∫_0^1 E_π_β[ log w ] dβ,   π_β ∝ q^(1-β) p^β

>>> import torch
>>> weights = torch.tensor([[0.0], [1.0]])
>>> bounds = [riemann_sum(weights, (0.0, 0.5, 1.0), is_upper=upper) for upper in (False, True)]
>>> bool(bounds[0] < bounds[1])
True
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice
from ancestral.estimators.inference.model_guide import Program
from ancestral.estimators.objectives.bound import AnyBaselines, Bound, Choices, bound_of
from ancestral.estimators.objectives.held import Held, held_bound
from ancestral.estimators.objectives.log_weights import Draws
from ancestral.estimators.objectives.paths import Pathwise
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.compile import eagerly

Betas = Sequence[float]


def _steps(betas: Betas, is_upper: bool) -> Iterator[tuple[float, float]]:
    """Yield the width of each step, and where its height is taken."""
    for low, high in itertools.pairwise(betas):
        yield high - low, high if is_upper else low


def riemann_sum(log_weights: Tensor, betas: Betas, *, is_upper: bool) -> Tensor:
    """Return the sum of self-normalized heights along the first dimension."""
    parts = [
        width * (torch.softmax(beta * log_weights, 0) * log_weights).sum(0)
        for width, beta in _steps(betas, is_upper)
    ]
    return sum(parts[1:], parts[0])


@eagerly
def thermodynamic(
    model: Program,
    guide: Program,
    *args: Any,
    betas: Betas = (0.0, 0.025, 0.0855, 0.2924, 1.0),
    is_upper: bool = False,
    gradient: Literal["unbiased", "covariance"] = "unbiased",
    particles: int = 2,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    baseline: AnyBaselines = "vimco",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    pathwise: Pathwise = "auto",
    **kwargs: Any,
) -> Bound:
    """Return the thermodynamic variational objective of a model and a guide.

        TVO = Σ_n Σ_j (β_j+1 - β_j) Σ_k w̃_kn(β_j) log w_kn,   w̃(β) = w^β / Σ_k w^β,   z_k ~ q
        Cov = Σ_n Σ_j (β_j+1 - β_j) Σ_k w̃_kn(β_j) ( ∇ log w_kn + (log w_kn - m_jn) ∇ log π_j(z_kn) )
        log π_j = (1 - β_j) log q + β_j log p,   m_j = Σ_k w̃_k(β_j) log w_k,   z_k held fixed

    For K without end a lower bound of log p(x), an upper one with the height at the end of each
    step; with betas (0, 1), the ELBO. The "unbiased" gradient is that of the expectation of the
    first line, as of `ancestral.infer.iwae`. That by "covariance" is the paper's, the second line:
    no score of a draw in it, and a bias of order 1/K. Masrani, Le and Wood (2019), "The
    thermodynamic variational objective", equations 6 and 11.

    Args:
        model: the program of p, as in `ancestral.infer.elbo`.
        guide: the program of q.
        args: what both are called with.
        betas: the ends of the steps: ascending, the first 0, the last 1. By default they are
            spaced evenly in their logarithms.
        is_upper: whether the height is taken at the end of each step, not at its beginning.
        gradient: which gradient.
        particles: how many draws, K.
        vectorized: see `ancestral.infer.iwae`, also for the rest.
        max_plate_nesting: as there.
        baseline: as there; not read by "covariance", as the rest.
        estimator: as there.
        credit: as there.
        pathwise: as there.
        kwargs: what both are called with.

    Raises:
        ValueError: if `betas` is no such sequence, or `gradient` is none; else as `iwae`.
        TypeError: as `iwae`.
        GuideError: as `iwae`.
        WeightError: as `iwae`.
        NonFiniteDensityError: as `iwae`.
    """
    betas = _checked(betas)
    if gradient not in ("unbiased", "covariance"):
        raise ValueError(f"gradient must be 'unbiased' or 'covariance', not {short(gradient)}")
    draws = Draws(
        model, guide, args, kwargs, particles, vectorized, max_plate_nesting, "thermodynamic"
    )

    def bound(log_weights: Tensor) -> Tensor:
        return riemann_sum(log_weights, betas, is_upper=is_upper)

    if gradient == "unbiased":
        return bound_of(draws, bound, Choices(baseline, estimator, credit, pathwise))

    def counts(log_weights: Tensor, sign: float) -> Tensor:
        """Return what log p (sign 1) or log q (sign -1) of each draw counts."""
        found = torch.zeros_like(log_weights)
        for width, beta in _steps(betas, is_upper):
            share = torch.softmax(beta * log_weights, 0)
            away = log_weights - (share * log_weights).sum(0)
            part = beta if sign > 0 else 1 - beta
            found = found + width * share * (sign + part * away)
        return found

    return held_bound(draws, Held(bound, lambda x: counts(x, 1.0), lambda x: counts(x, -1.0)))


def _checked(betas: object) -> tuple[float, ...]:
    try:
        found = tuple(map(float, betas))  # type: ignore[call-overload] # what is no sequence raises
    except (TypeError, ValueError):
        found = ()
    is_path = len(found) > 1 and found[0] == 0 and found[-1] == 1
    if not is_path or any(not low < high for low, high in itertools.pairwise(found)):
        raise ValueError(
            "betas must be ascending numbers of which the first is 0 and the last 1, such as "
            f"(0.0, 0.1, 1.0), not {short(betas)}"
        )
    return found
