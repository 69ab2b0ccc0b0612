"""The stated error bounds the real one, and broken copies of estimators are called biased."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Gamma, Laplace, Normal, OneHotCategorical

import ancestral as an
from ancestral.estimators import REBAR, RELAX, MeasureValued, SiteDraw, SiteEstimator
from ancestral.estimators.multi_run.measure_valued import Rayleigh
from ancestral.estimators.relaxation.concrete import relaxed


def leaf(*values: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def toy(theta: Tensor) -> Tensor:
    return ((Bernoulli(logits=theta, validate_args=False).sample() - 0.45) ** 2).sum()  # type: ignore[no-any-return]


def classes(theta: Tensor) -> Tensor:
    z = OneHotCategorical(logits=theta, validate_args=False).sample()
    return (z @ torch.arange(len(theta), dtype=theta.dtype) - 0.7) ** 2  # type: ignore[no-any-return]


def control(y: Tensor) -> Tensor:
    return 0.3 * y.sigmoid().sum()


def normal(theta: Tensor) -> Any:
    return Normal(theta[0], 1.2).sample().sin()


RIGHT: list[tuple[Any, Tensor, SiteEstimator]] = [
    (toy, leaf(-8.0), REBAR(5.0)),
    (toy, leaf(8.0), REBAR(0.05)),
    (toy, leaf(0.3, dtype=torch.float32), REBAR(0.05)),
    (toy, leaf(1.0), RELAX(lambda y: (y - 0.37).relu().sum(), 0.0)),
    (classes, leaf(8.0, 0.0), REBAR(0.5)),
    (normal, leaf(0.3), MeasureValued()),
]


@pytest.mark.parametrize(("program", "theta", "estimator"), RIGHT)
def test_what_is_unbiased_is_called_so(
    program: Any, theta: Tensor, estimator: SiteEstimator
) -> None:
    found = an.verify(
        program,
        theta,
        estimators=estimator,
        baseline=None,
        tolerance=1e-3,
        outcomes=1200,
        nodes=6,
        draws=0,
    )
    assert found.is_unbiased
    known = found["theta"]
    assert known.error.max() < 1e-2 * max(float(known.exact.abs().max()), found.variance**0.5)


def wrong_sign(site: SiteDraw) -> Tensor:
    soft = relaxed(site, 0.5)
    run = site.evaluate_slope(soft.free.detach(), is_smooth=True)
    scored = ((site.credit - run.credit) * site.log_prob(site.value)).sum()
    return scored - (run.slope * (soft.free - soft.given)).sum()


def without_the_conditional_part(site: SiteDraw) -> Tensor:
    soft = relaxed(site, 0.5)
    run = site.evaluate_slope(soft.free.detach(), is_smooth=True)
    scored = ((site.credit - run.credit) * site.log_prob(site.value)).sum()
    return scored + (run.slope * soft.free).sum()


def without_the_control_variate(site: SiteDraw) -> Tensor:
    soft = relaxed(site, 0.5)
    run = site.evaluate_slope(soft.free.detach(), is_smooth=True)
    scored = (site.credit * site.log_prob(site.value)).sum()
    return scored + (run.slope * (soft.free - soft.given)).sum()


def uncoupled(site: SiteDraw) -> Tensor:
    """The conditional noise is drawn anew, and not that of the run."""
    soft, other = relaxed(site, 0.5), relaxed(site, 0.5)
    run = site.evaluate_slope(soft.free.detach(), is_smooth=True)
    scored = ((site.credit - run.credit) * site.log_prob(site.value)).sum()
    return scored + (run.slope * (soft.free - other.given)).sum()


def at_another_temperature(site: SiteDraw) -> Tensor:
    soft, other = relaxed(site, 0.5), relaxed(site, 0.6)
    run = site.evaluate_slope(soft.free.detach(), is_smooth=True)
    scored = ((site.credit - run.credit) * site.log_prob(site.value)).sum()
    return scored + (run.slope * (soft.free - other.given)).sum()


def of_no_parameters(site: SiteDraw) -> Tensor:
    """The conditional noise does not depend on the probability of what was drawn."""
    logits = site.parameter("logits").detach()
    soft, other = relaxed(site, 0.5), relaxed(site, 0.5, logits)
    run = site.evaluate_slope(soft.free.detach(), is_smooth=True)
    scored = ((site.credit - run.credit) * site.log_prob(site.value)).sum()
    return scored + (run.slope * (soft.free - other.given)).sum()


def half_of_relax(site: SiteDraw) -> Tensor:
    """The control variate that is scored is added back by half."""
    soft = relaxed(site, 0.5)
    free, given = control(soft.free), control(soft.given)
    scored = ((site.credit - given.detach()) * site.log_prob(site.value)).sum()
    return scored + (free - given) / 2


def not_scaled(site: SiteDraw) -> Tensor:
    """The derivative by the location of a normal draw, without its constant."""
    loc, scale = site.parameter("loc"), site.parameter("scale").detach()
    r = site.draw(Rayleigh(torch.ones_like(loc.detach())))
    high, low = (site.evaluate_alone(loc.detach() + sign * scale * r) for sign in (1, -1))
    return ((high - low) / (scale * 2) * loc).sum()


BROKEN = [
    (toy, wrong_sign, 0.3),
    (toy, without_the_conditional_part, -8.0),
    (toy, without_the_control_variate, 0.3),
    (toy, uncoupled, -8.0),
    (toy, at_another_temperature, 0.3),
    (toy, of_no_parameters, -8.0),
    (toy, half_of_relax, 0.3),
    (toy, half_of_relax, -8.0),
    (normal, not_scaled, 0.3),
]


@pytest.mark.parametrize(("program", "estimator", "at"), BROKEN)
def test_a_broken_copy_is_called_biased(
    program: Any, estimator: Callable[[SiteDraw], Tensor], at: float
) -> None:
    found = an.verify(
        program,
        leaf(at),
        estimators=estimator,
        baseline=None,
        tolerance=1e-3,
        outcomes=900,
        nodes=10,
        draws=0,
    )
    assert found.is_biased


def phi(x: float) -> float:
    return math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


MU, SIGMA = 0.3, 1.2
KINKS: dict[str, tuple[Callable[[Tensor], Any], float]] = {
    "step": (
        lambda m: (Normal(m, SIGMA).sample() > 0.5).double(),
        phi((0.5 - MU) / SIGMA) / SIGMA,
    ),
    "step in a tail": (
        lambda m: (Normal(m, 1.0).sample() > 5.0).double(),
        phi(5.0 - MU),
    ),
    "absolute": (
        lambda m: Normal(m, SIGMA).rsample().abs(),
        math.erf(MU / SIGMA / math.sqrt(2)),
    ),
    "heavier tails": (
        lambda m: Laplace(m, SIGMA).rsample().sin(),
        math.cos(MU) / (1 + SIGMA**2),
    ),
    "nearly zero": (
        lambda m: Gamma(m / 6, 1.0).rsample() ** 2,
        (2 * MU / 6 + 1) / 6,
    ),
}


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")
@pytest.mark.parametrize("outcomes", [100, 600])
@pytest.mark.parametrize("name", KINKS)
def test_the_stated_error_bounds_the_real_one(name: str, outcomes: int) -> None:
    program, slope = KINKS[name]
    mu = torch.tensor(MU, dtype=torch.float64, requires_grad=True)
    found = an.verify(program, mu, outcomes=outcomes, nodes=10, draws=0, tolerance=1e-4)
    known = found["m"] if "m" in found else next(iter(found.values()))
    assert abs(float(known.exact) - slope) <= float(known.error)
    assert found.is_unbiased
    if outcomes > 100:
        assert float(known.error) <= 2e-4 * max(slope, found.variance**0.5)
    elif found.reason:
        assert "exact to" in found.reason
        assert "allow more" in str(found)
