"""FIVO: the bound of the log-evidence of a sequence that a particle filter gives.

        E[log Ẑ] ≤ log p(x_1, ..., x_T),   Ẑ = Π_t Σ_k W_{t-1}^k w_t^k

>>> import torch
>>> from torch.distributions import Normal
>>> _ = torch.manual_seed(0)
>>> drift = torch.tensor(0.0, requires_grad=True)
>>> xs = torch.tensor([0.9, 2.1, 2.9, 4.2])
>>> def initial(particles, x):
...     return step(torch.zeros(particles), x)
>>> def step(z, x):
...     z = Normal(z + drift, 0.5).rsample()
...     return z, Normal(z, 0.5).log_prob(x)
>>> optimizer = torch.optim.Adam([drift], lr=0.1)
>>> for _ in range(60):
...     optimizer.zero_grad()
...     fivo(initial, step, xs, particles=16).surrogate.backward()
...     optimizer.step()
>>> bool((drift - 1.0).abs() < 0.3)
True
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice, chosen
from ancestral.estimators.gradient.problem import problem_of
from ancestral.estimators.gradient.subtraction import Baselines, check_baseline
from ancestral.estimators.gradient.surrogate import settle, surrogate_of
from ancestral.estimators.inference.bound_value import bound_value
from ancestral.estimators.sequences.particle_filter import Initial, Step, particle_filter
from ancestral.estimators.sequences.resampling import Resampling
from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.context.compile import eagerly
from ancestral.trace.recording.record import record


@dataclass(frozen=True)
class Fivo:
    """An estimate of a filtering variational objective.

    Attributes:
        value: the sum of the log-evidence over the batch, to be reported: higher is better; [],
            detached.
        surrogate: the scalar to call ``backward()`` on and to be minimized, []. Its value is that
            of ``-value``, its gradient an estimate of that of the negative bound.
        log_evidence: of each sequence, [*batch], detached.
        effective_sample_size: of the particles of each step, [T, *batch], detached.
    """

    value: Tensor
    surrogate: Tensor
    log_evidence: Tensor
    effective_sample_size: Tensor


@eagerly
def fivo(
    initial: Initial,
    step: Step,
    observations: Tensor | Iterable[Any],
    *,
    particles: int,
    resampling: Resampling = "multinomial",
    ess_threshold: float = 1.0,
    resampling_gradient: bool | None = None,
    baseline: Baselines = "auto",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
) -> Fivo:
    """Run a particle filter, and return the bound of the log-evidence and what to minimize.

        FIVO = E[log Ẑ],   log Ẑ = Σ_t c_t,   c_t = log Σ_k W_{t-1}^k w_t^k
        ∇ FIVO = E[ ∇ log Ẑ + Σ_t Σ_k ∇ log W_t^{a_t[k]} Σ_{s>t} c_s ]

    The second line is of states drawn by ``rsample``; those drawn by ``sample`` have their scores
    too. The ancestors a_t are sites, whose scores are found: each gets the terms after it. A batch
    of sequences has its credit apart, so that the default baseline of one are the others.
    With the resampling gradient it is unbiased. Without, the sum over a_t is left out, as is usual:
    a biased estimate with less variance.
    Maddison et al. (2017), "Filtering variational objectives", section 4; Le et al. (2018),
    "Auto-encoding sequential Monte Carlo"; Naesseth et al. (2018), "Variational sequential Monte
    Carlo", section 3.

    Args:
        initial: see `particle_filter`, also for the next six.
        step: what one step draws and weighs.
        observations: those of the steps.
        particles: how many.
        resampling: how ancestors are drawn.
        ess_threshold: below which part of the particles they are.
        resampling_gradient: whether they have a score.
        baseline: what is subtracted from the terms of each site, see `an.backward`, also for the
            next two. The site of the ancestors is named "ancestors".
        estimator: how a site drawn by ``rsample`` gets its gradient.
        credit: which terms count for a site.

    Raises:
        TypeError: if `particle_filter` does.
        ValueError: if `particle_filter` does.
        ParticleError: if `particle_filter` does.
    """
    check_baseline(baseline)
    # All terms count, whatever is decided on the way.
    with record(control="after") as trace:
        found = particle_filter(
            initial,
            step,
            observations,
            particles=particles,
            resampling=resampling,
            ess_threshold=ess_threshold,
            resampling_gradient=resampling_gradient,
        )
        loss = -found.log_evidence.sum()
    scalar = untrack(loss)
    if provenance(loss) is not None and torch.is_grad_enabled():
        scalar = surrogate_of(*chosen(problem_of(loss, None), estimator, credit), baseline)
    if trace.universe.owner is trace:  # else the value is tracked
        settle(trace)
        loss = untrack(loss)
    evidence, size = untrack(found.log_evidence), untrack(found.effective_sample_size)
    return Fivo(bound_value(-loss.detach()), scalar, evidence.detach(), size.detach())
