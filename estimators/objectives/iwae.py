"""Importance-weighted bounds: of Burda, of Rényi, and any other function of log-weights.

>>> import torch
>>> from torch.distributions import Bernoulli, Normal
>>> from ancestral.trace.program.plate import plate
>>> from ancestral.trace.program.primitives import sample
>>> logits = torch.zeros(3, requires_grad=True)
>>> def model(x):
...     with plate("data", 3):
...         z = sample("z", Bernoulli(torch.tensor(0.5)))
...         sample("x", Normal(z, 1.0), obs=x)
>>> def guide(x):
...     with plate("data", 3):
...         sample("z", Bernoulli(logits=logits))
>>> bound = iwae(model, guide, torch.ones(3), particles=5, vectorized=True)
>>> bound.log_weights.shape
torch.Size([5, 3])
>>> bound.surrogate.backward()
"""

import math
from typing import Any

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice
from ancestral.estimators.inference.model_guide import Program
from ancestral.estimators.objectives.bound import (
    AnyBaselines,
    Bound,
    Choices,
    Function,
    bound_of,
    checked_function,
)
from ancestral.estimators.objectives.log_mean import LogMean
from ancestral.estimators.objectives.log_weights import Draws
from ancestral.estimators.objectives.paths import Pathwise
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.compile import eagerly


@eagerly
def iwae(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int = 1,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    baseline: AnyBaselines = "vimco",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    pathwise: Pathwise = "auto",
    **kwargs: Any,
) -> Bound:
    """Return the importance-weighted bound of a model and a guide, and what to minimize.

        IWAE_K = Σ_n log 1/K Σ_k p(x_n, z_kn) / q(z_kn)  ≤  log p(x),   z_k ~ q

    Over the examples n, the repetitions of the plates that all sites are in; without such a plate
    there is one. Data that depends on no draw is added. A subsample of examples stands for all. It
    is the ELBO for K = 1, and nearer to log p(x) the larger K. Value and gradient are unbiased for
    the expectation of IWAE_K.
    Burda, Grosse and Salakhutdinov (2016), "Importance weighted autoencoders", equation 8.

    Args:
        model: the program of p, as in `ancestral.infer.elbo`.
        guide: the program of q.
        args: what both are called with.
        particles: how many draws, K.
        vectorized: run all of them at once, in a plate to the left of all others.
        max_plate_nesting: how many dimensions, from the right, the batches have without the
            particles. Only if `vectorized`; by default one run without them tells.
        baseline: what is subtracted for a scored site; "vimco" is the bound where the mean of the
            other log-weights takes the place of that of the draw: Mnih and Rezende (2016),
            "Variational inference for Monte Carlo objectives", equation 8. None is the only other
            choice for several draws, whose costs all hold the bound, which each of them reaches.
            One draw takes those of `ancestral.backward`, and "auto" for "vimco".
        estimator: how a site drawn by ``rsample`` gets its gradient.
        credit: which examples count for a site; by element where several draws run at once.
        pathwise: the gradient along the values of the others. "dreg" is doubly reparameterized:
            Tucker, Lawson, Gu and Maddison (2019), "Doubly reparameterized gradient estimators for
            Monte Carlo objectives", equation 8. "stl" leaves the guide's score out, which is
            unbiased for K = 1 only, and warns else: Roeder, Wu and Duvenaud (2017), "Sticking the
            landing". "plain" is the gradient of what is written above. "auto" is "dreg" where the
            guide draws all that has a path, else "plain".
        kwargs: what both are called with.

    Raises:
        ValueError: if `particles` is no positive number, or a choice is none, or none for several.
        TypeError: if a program is no function, or for a keyword that is Pyro's name of an argument
            of this, and no parameter of a program.
        GuideError: if the sites of the two do not match, or a path is no path of the guide.
        WeightError: if a plate is subsampled that is not around all sites.
        NonFiniteDensityError: if the log-probability of a site is NaN or infinite.
        SiteError: for what else is wrong with a site, or particles that cannot run at once.
    """
    draws = Draws(model, guide, args, kwargs, particles, vectorized, max_plate_nesting, "iwae")
    return bound_of(draws, LogMean(), Choices(baseline, estimator, credit, pathwise))


@eagerly
def renyi(
    model: Program,
    guide: Program,
    *args: Any,
    alpha: float,
    particles: int = 2,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    baseline: AnyBaselines = "vimco",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    pathwise: Pathwise = "auto",
    **kwargs: Any,
) -> Bound:
    """Return the variational Rényi bound of a model and a guide, and what to minimize.

        VR_α = Σ_n 1/(1-α) log 1/K Σ_k (p(x_n, z_kn) / q(z_kn))^(1-α),   z_k ~ q

    For α = 0 it is the importance-weighted bound; as α goes to 1, the ELBO. An α below zero gives
    an upper bound of log p(x) for K without end, which is minimized all the same by its negative.
    Value and gradient are unbiased for the expectation of the bound of K draws.
    Li and Turner (2016), "Rényi divergence variational inference", equation 9.

    Args:
        model: the program of p.
        guide: the program of q.
        args: what both are called with.
        alpha: the order of the divergence, α, any number but 1.
        particles: how many draws, K.
        vectorized: see `iwae`, also for the rest.
        max_plate_nesting: as there.
        baseline: as there.
        estimator: as there.
        credit: as there.
        pathwise: as there.
        kwargs: what both are called with.

    Raises:
        ValueError: if `alpha` is 1 or no finite number; else as `iwae`.
        TypeError: as `iwae`.
        GuideError: as `iwae`.
        WeightError: as `iwae`.
        NonFiniteDensityError: as `iwae`.
    """
    bound = LogMean(1 - _order(alpha))
    draws = Draws(model, guide, args, kwargs, particles, vectorized, max_plate_nesting, "renyi")
    return bound_of(draws, bound, Choices(baseline, estimator, credit, pathwise))


def _order(alpha: object) -> float:
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not is_number or not math.isfinite(alpha):  # type: ignore[arg-type] # it is a number here
        raise ValueError(f"alpha must be a finite number other than 1, not {short(alpha)}")
    assert isinstance(alpha, int | float)
    if alpha == 1:
        raise ValueError(
            "alpha must be a number other than 1, where the bound of Rényi has its limit, the "
            "ELBO: use an.infer.elbo"
        )
    return float(alpha)


@eagerly
def multi_sample(
    model: Program,
    guide: Program,
    *args: Any,
    function: Function,
    particles: int = 2,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    baseline: AnyBaselines = "vimco",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    pathwise: Pathwise = "auto",
    **kwargs: Any,
) -> Bound:
    """Return a function of the log-weights of several draws, and what to minimize.

        Σ_n f(log w_1[n], ..., log w_K[n]),   w_k[n] = p(x_n, z_kn) / q(z_kn),   z_k ~ q

    Value and gradient are unbiased for the expectation of the sum. `iwae` is that of the logarithm
    of the mean. Mnih and Rezende (2016), "Variational inference for Monte Carlo objectives",
    section 2.

    Args:
        model: the program of p.
        guide: the program of q.
        args: what both are called with.
        function: takes log-weights, [K, ...], and returns what is to be large, [...], each element
            by those along the first dimension. Torch differentiates it twice.
        particles: how many draws, K.
        vectorized: see `iwae`, also for the rest.
        max_plate_nesting: as there.
        baseline: as there.
        estimator: as there.
        credit: as there.
        pathwise: as there.
        kwargs: what both are called with.

    Raises:
        TypeError: if `function` is none; else as `iwae`.
        ValueError: if it returns another shape; else as `iwae`.
        GuideError: as `iwae`.
        WeightError: as `iwae`.
        NonFiniteDensityError: as `iwae`.
    """
    draws = Draws(
        model,
        guide,
        args,
        kwargs,
        particles,
        vectorized,
        max_plate_nesting,
        "multi_sample",
        has_constants=False,
    )
    return bound_of(
        draws, checked_function(function), Choices(baseline, estimator, credit, pathwise)
    )
