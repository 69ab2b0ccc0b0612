"""Reweighted wake-sleep, and its parts: model and guide are learned from weighted draws.

No gradient goes through a draw, so that discrete and continuous sites are alike.

>>> import torch
>>> from torch.distributions import Bernoulli, Normal
>>> from ancestral.trace.program.primitives import sample
>>> logit, shift = (torch.zeros((), requires_grad=True) for _ in range(2))
>>> def model(x):
...     z = sample("z", Bernoulli(logits=logit))
...     sample("x", Normal(z + shift, 1.0), obs=x)
>>> def guide(x):
...     sample("z", Bernoulli(logits=x * 0.5))
>>> log_evidence(model, guide, torch.tensor(1.0), particles=5).surrogate.backward()
>>> logit.grad is not None
True
"""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.inference.model_guide import Program
from ancestral.estimators.objectives.bound import Bound
from ancestral.estimators.objectives.dream import asleep
from ancestral.estimators.objectives.held import Held, held_bound
from ancestral.estimators.objectives.log_mean import LogMean
from ancestral.estimators.objectives.log_weights import Draws
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.compile import eagerly


def normalized(log_weights: Tensor) -> Tensor:
    """Return weights that sum to one along the first dimension."""
    return torch.softmax(log_weights, 0)


@eagerly
def log_evidence(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int = 2,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    **kwargs: Any,
) -> Bound:
    """Return an estimate of log p(x), and of its gradient by the parameters of the model.

        log p(x) ≈ Σ_n log 1/K Σ_k w_kn,   ∇ log p(x) ≈ Σ_n Σ_k w̃_kn ∇ log p(x_n, z_kn)
        w = p(x, z) / q(z),   w̃ = w / Σ_k w,   z_k ~ q

    The guide gets no gradient. Unbiased for the model's gradient of the expected bound of K draws
    (see `iwae`), which is that of log p(x) for K without end: Fisher's identity. Bornschein and
    Bengio (2015), "Reweighted wake-sleep", equation 6.

    Args:
        model: the program of p, as in `ancestral.infer.elbo`.
        guide: the program of q, from which the draws come.
        args: what both are called with.
        particles: how many draws, K.
        vectorized: see `ancestral.infer.iwae`.
        max_plate_nesting: as there.
        kwargs: what both are called with.

    Raises:
        ValueError: if `particles` is no positive number.
        TypeError: if a program is no function, or for a name of Pyro.
        GuideError: if the sites of the two do not match.
        WeightError: if a plate is subsampled that is not around all sites.
        NonFiniteDensityError: if the log-probability of a site is NaN or infinite.
        SiteError: if torch alone draws from a distribution that is learned.
    """
    draws = Draws(
        model, guide, args, kwargs, particles, vectorized, max_plate_nesting, "log_evidence"
    )
    return held_bound(draws, Held(LogMean(), of_model=normalized))


@eagerly
def forward_kl(
    model: Program,
    guide: Program,
    *args: Any,
    power: float = 1.0,
    particles: int = 2,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    **kwargs: Any,
) -> Bound:
    """Return the divergence of the guide from the posterior, KL(p || q), and what to minimize.

        KL(π || q) ≈ Σ_n ( Σ_k w̃_kn β log w_kn - log 1/K Σ_k w_kn^β )
        ∇ KL(π || q) ≈ - Σ_n Σ_k w̃_kn ∇ log q(z_kn),   w̃ = w^β / Σ_k w^β,   z_k ~ q

    π is the posterior for β = 1, and for a `power` β below, tempered, the density in proportion to
    q^(1-β) p^β, which is held fixed: less of the truth, by more even weights. The model gets no
    gradient. Self-normalized: the bias of value and gradient is of order 1/K. Bornschein and Bengio
    (2015), "Reweighted wake-sleep", equation 8; Neal (2001), "Annealed importance sampling",
    equation 3, for π.

    Args:
        model: the program of p, as in `ancestral.infer.elbo`.
        guide: the program of q.
        args: what both are called with.
        power: the power of the weights, β, above 0 and at most 1.
        particles: how many draws, K.
        vectorized: see `ancestral.infer.iwae`.
        max_plate_nesting: as there.
        kwargs: what both are called with.

    Raises:
        ValueError: if `power` is not between 0 and 1, or `particles` no number above 1.
        TypeError: as `log_evidence`.
        GuideError: as `log_evidence`.
        WeightError: as `log_evidence`.
        NonFiniteDensityError: as `log_evidence`.
        SiteError: as `log_evidence`.
    """
    power = fraction("power", power, is_zero_one=False)

    def divergence(log_weights: Tensor) -> Tensor:
        tempered = power * log_weights
        return (normalized(tempered) * tempered).sum(0) - LogMean()(tempered)

    draws = Draws(
        model, guide, args, kwargs, particles, vectorized, max_plate_nesting, "forward_kl", 2
    )
    found = Held(divergence, of_guide=lambda x: normalized(power * x), is_maximized=False)
    return held_bound(draws, found)


@eagerly
def wake_sleep(
    model: Program,
    guide: Program,
    *args: Any,
    sleep: float = 0.0,
    particles: int = 2,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    **kwargs: Any,
) -> Bound:
    """Return reweighted wake-sleep of a model and a guide, and what to minimize.

        model, awake    Σ_n Σ_k w̃_kn ∇ log p(x_n, z_kn),   z_k ~ q
        guide, awake    Σ_n Σ_k w̃_kn ∇ log q(z_kn | x_n),   z_k ~ q
        guide, asleep   Σ_n ∇ log q(z_n | x_n),   (x, z) ~ p

    The first is `log_evidence`. The guide has 1 - `sleep` of the second, `forward_kl`, and `sleep`
    of the third: 0 is wake-wake, 1 is wake-sleep. Asleep, the model draws its data, and the guide
    is called with those in the places of the arguments that the model observes. The value is the
    estimate of log p(x). Unbiased: the model's, for the expected bound of K draws, and the sleep
    phase, for - E KL(p(z | x) || q(z | x)) over data of the model; the bias of the guide's wake
    phase is of order 1/K. Bornschein and Bengio (2015), "Reweighted wake-sleep", section 3; Le,
    Kosiorek, Siddharth, Teh and Wood (2019), "Revisiting reweighted wake-sleep", section 3.

    Args:
        model: the program of p, as in `ancestral.infer.elbo`.
        guide: the program of q.
        args: what both are called with; for a `sleep` phase, among them the data.
        sleep: how much the sleep phase counts for the guide, from 0 to 1.
        particles: how many draws, K.
        vectorized: see `ancestral.infer.iwae`.
        max_plate_nesting: as there.
        kwargs: what both are called with.

    Raises:
        ValueError: if `sleep` is not between 0 and 1, or `particles` no number above 1.
        TypeError: as `log_evidence`.
        GuideError: as `log_evidence`; if data that is to be dreamt is no argument.
        WeightError: as `log_evidence`.
        NonFiniteDensityError: as `log_evidence`.
        SiteError: as `log_evidence`.
    """
    sleep = fraction("sleep", sleep)
    draws = Draws(
        model, guide, args, kwargs, particles, vectorized, max_plate_nesting, "wake_sleep", 2
    )

    def awake(log_weights: Tensor) -> Tensor:
        return (1 - sleep) * normalized(log_weights)

    found = held_bound(draws, Held(LogMean(), of_model=normalized, of_guide=awake))
    if not sleep:
        return found
    dreamt = asleep(model, guide, args, kwargs)
    return replace(found, surrogate=found.surrogate + sleep * (dreamt - dreamt.detach()))


def fraction(name: str, given: object, *, is_zero_one: bool = True) -> float:
    """Return a number between 0 and 1; 0 itself only if it is one.

    Raises:
        ValueError: if it is none.
    """
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    if is_number and math.isfinite(given) and (0 < given <= 1 or (is_zero_one and given == 0)):  # type: ignore[arg-type, operator]
        return float(given)  # type: ignore[arg-type]
    least = "from 0 to 1" if is_zero_one else "above 0 and at most 1"
    raise ValueError(f"{name} must be a number {least}, not {short(given)}")
