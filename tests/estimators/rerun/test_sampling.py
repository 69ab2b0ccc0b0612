"""Elements that are drawn together keep the mean, or are refused, and have less variance."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Exponential,
    Gamma,
    Laplace,
    MultivariateNormal,
    Normal,
    Uniform,
)

import ancestral as an
from ancestral.errors import EstimatorError, PatternWarning, SiteError
from ancestral.estimators import (
    RLOO,
    Antithetic,
    DisARM,
    QuasiRandom,
    RunRLOO,
    total_cost,
)

BOTH = [Antithetic(), QuasiRandom()]


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def cubes(theta: Tensor) -> Tensor:
    z = Normal(theta[0].expand(2), theta[1].exp()).rsample()
    return (z**3 + theta[0] * z).mean()


def cubes_scored(theta: Tensor) -> Any:
    z = Normal(theta[0].expand(4), theta[1].exp()).sample()
    return (z**2 + theta[0] * z).mean()


def two_dims(theta: Tensor) -> Tensor:
    z = Normal(theta[0].expand(2, 2), 0.7).rsample()
    return (z[:, 0] * z[:, 1] ** 2 * theta[1]).sum()


def bits_below(theta: Tensor) -> Tensor:
    z = Normal(theta[0].expand(2), 0.5).rsample()
    y = Bernoulli(logits=z + theta[1]).sample()
    return ((y - 0.3 * z) ** 2).sum()  # type: ignore[no-any-return]


def two_together(theta: Tensor) -> Tensor:
    z = Normal(theta[0].expand(2), 0.5).rsample()
    w = Normal(z * theta[1], 0.5).rsample()
    return (z * w**2).sum()


CASES: list[tuple[Any, Any, int]] = [
    (cubes, "auto", 4),
    (cubes, "score", 5),
    (cubes_scored, "score", 3),
    (two_dims, "auto", 3),
    (two_together, {"z": "score", "*": "auto"}, 3),
    (two_together, "score", 3),
    (cubes, RunRLOO(2), 4),
]


@pytest.mark.parametrize(
    ("program", "estimators", "nodes"), CASES, ids=lambda each: getattr(each, "__name__", str(each))
)
def test_antithetic_draws_have_the_exact_mean(program: Any, estimators: Any, nodes: int) -> None:
    theta = leaf(0.3, -0.4)
    sampling = {"w": Antithetic(), "z": Antithetic()} if program is two_together else Antithetic()
    found = an.verify(
        program,
        theta,
        estimators=estimators,
        sampling=sampling,
        nodes=nodes,
        draws=0,
        tolerance=1e-8,
    )["theta"]
    torch.testing.assert_close(found.mean, found.exact, rtol=1e-8, atol=1e-9)


def test_what_is_drawn_below_is_independent_given_them() -> None:
    theta, plan = leaf(0.3, -0.4), {"y": DisARM(), "*": "auto"}
    sampling = {"z": Antithetic()}
    found = an.verify(
        bits_below,
        theta,
        estimators=plan,  # type: ignore[arg-type]
        sampling=sampling,
        nodes=10,
        draws=0,
        tolerance=1e-8,
    )
    assert found.is_unbiased
    torch.testing.assert_close(found["theta"].mean, found["theta"].exact, rtol=1e-5, atol=1e-6)


def test_a_pair_has_no_variance_of_what_is_odd() -> None:
    """The pathwise gradient of z² is 2 z, of which two antithetic ones add up to 4 μ."""
    loc = leaf(0.7)

    def program() -> Tensor:
        return (Normal(loc.expand(4), 1.3).rsample() ** 2).mean()

    together = an.verify(program, sampling=Antithetic(), nodes=4)
    alone = an.verify(program, nodes=2)
    assert together.variance < 1e-20
    assert alone.variance == pytest.approx(4 * 1.3**2 / 4)


@pytest.mark.parametrize("estimator", ["auto", "score"])
def test_quasi_random_draws_have_the_mean_and_less_variance(estimator: Any) -> None:
    theta = leaf(0.3, -0.4)
    torch.manual_seed(0)

    def program() -> Tensor:
        z = Normal(theta.expand(16, 2), 1.0).rsample()
        return (z[:, 0].sin() + z[:, 1] ** 2).mean()

    found = {
        how: an.verify(
            program, estimators=estimator, baseline=None, sampling=how, outcomes=1, draws=80
        )
        for how in (None, QuasiRandom())
    }
    assert all(each.is_unbiased for each in found.values())
    assert found[QuasiRandom()].variance < found[None].variance / 2


def draws(fn: Any, how: Any) -> Tensor:
    seen: list[Tensor] = []

    def program() -> Tensor:
        z = an.sample("z", fn)
        seen.append(an.untrack(z).detach())
        return z.sum()

    an.estimate(program, sampling=how, check=False)
    return seen[0]


FAMILIES = [
    lambda n: Normal(leaf(*[0.4] * n), 1.3),
    lambda n: Laplace(leaf(*[0.4] * n), 1.3),
    lambda n: Uniform(leaf(*[0.4] * n), 1.3),
    lambda n: Exponential(leaf(*[0.4] * n)),
]


@pytest.mark.parametrize("how", BOTH, ids=repr)
@pytest.mark.parametrize("make", FAMILIES)
def test_each_element_has_its_distribution(make: Any, how: Any) -> None:
    torch.manual_seed(0)
    fn = make(2001)
    u = fn.cdf(draws(fn, how)).detach().sort().values
    expected = (torch.arange(2001, dtype=torch.float64) + 0.5) / 2001
    assert float((u - expected).abs().max()) < 2 / 2001**0.5  # Kolmogorov and Smirnov


def test_antithetic_draws_are_mirror_images() -> None:
    z = draws(Normal(leaf(*[0.4] * 5), 1.3), Antithetic())
    torch.testing.assert_close(z[3:] - 0.4, 0.4 - z[:2])
    single = draws(Normal(torch.zeros(4, requires_grad=True), 1.0), Antithetic(-1))
    assert single.dtype == torch.float32


def test_the_choice_of_a_site_may_stand_in_its_infer() -> None:
    loc = leaf(*[0.4] * 4)

    def program() -> Tensor:
        z = an.sample("z", Normal(loc, 1.3), infer={"sampling": Antithetic()})
        return (z**2).sum()

    z = an.verify(program, nodes=3, draws=0)
    assert z.is_unbiased


def shared(theta: Tensor) -> Tensor:
    return (Normal(theta.expand(4, 2), 1.0).rsample().sum() - 1) ** 2


def apart(theta: Tensor) -> Tensor:
    return (Normal(theta.expand(4, 2), 1.0).sample() ** 2).sum()  # type: ignore[no-any-return]


def bits(theta: Tensor) -> Any:
    return Bernoulli(logits=theta).sample().sum()


def joint(theta: Tensor) -> Tensor:
    return MultivariateNormal(theta, torch.eye(2).double()).rsample().sum()


def gammas(theta: Tensor) -> Tensor:
    return Gamma(theta.exp(), 1.0).rsample().sum()


def read(theta: Tensor) -> Tensor:
    z = Normal(theta, 1.0).rsample()
    return z.sum() * 2 if z[0] > 0 else z.sum()


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")
@pytest.mark.parametrize("how", BOTH, ids=repr)
def test_what_would_change_the_mean_or_cannot_be_drawn_is_refused(how: Any) -> None:
    theta = leaf(0.3, -0.4)
    wrong: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (shared, {}, EstimatorError, r"'normal' .*have costs in common"),
        (read, {}, EstimatorError, "'z' .*have costs in common"),
        (apart, {"credit": total_cost}, EstimatorError, "count each other's costs"),
        (bits, {}, SiteError, "a continuous distribution .*Bernoulli"),
        (joint, {}, SiteError, "a continuous distribution of single numbers.*Multivariate"),
        (gammas, {}, SiteError, r"inverse distribution function .*Gamma"),
        (lambda theta: Normal(theta[0], 1.0).rsample(), {}, SiteError, "a dimension 0"),
    ]
    for program, options, error, message in wrong:
        with pytest.raises(error, match=message):
            an.estimate(program, theta, sampling=how, **options)
    with pytest.raises(ValueError, match="sampling must be"):
        an.estimate(apart, theta, sampling="antithetic")  # type: ignore[arg-type]
    with pytest.warns(PatternWarning, match="'w'"):
        an.estimate(apart, theta, sampling={"w": how})


@pytest.mark.parametrize("size", [(), (2,)])
def test_verification_refuses_what_estimation_does(size: tuple[int, ...]) -> None:
    theta = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor) -> Tensor:
        total: Tensor = Categorical(logits=theta.expand(*size, 2)).sample().double().sum()
        return total

    for ask in (an.estimate, an.verify):
        with pytest.raises(SiteError, match=r"site 'categorical' .*continuous .*use sampling="):
            ask(program, theta, sampling=Antithetic())


def test_other_draws_of_the_site_are_independent() -> None:
    def squares(theta: Tensor) -> Any:
        z = Normal(theta[0].expand(2), theta[1].exp()).sample()
        return (z**2 + theta[0] * z).mean()

    theta = leaf(0.3, -0.4)
    options: dict[str, Any] = {"nodes": 3, "draws": 0, "tolerance": 1e-8}
    found = an.verify(squares, theta, estimators=RLOO(2), sampling=Antithetic(), **options)["theta"]
    torch.testing.assert_close(found.mean, found.exact, rtol=1e-8, atol=1e-9)
