"""Verification agrees with enumeration by other means, finds bias, and says what it cannot."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from programs.reruns import BITS, CLASSES
from torch import Tensor, nn
from torch.distributions import Bernoulli, Beta, Categorical, Normal, Uniform

import ancestral as an
import oracles
from ancestral.errors import (
    DerivativeOrderError,
    NotAFunctionError,
    NotEnumerableError,
    TooManyOutcomesError,
)
from ancestral.estimators import (
    ARM,
    RLOO,
    DisARM,
    RunningMean,
    RunRLOO,
    SiteDraw,
    SiteEstimator,
    total_cost,
)

pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")


@pytest.mark.parametrize("name", [name for name in (*BITS, *CLASSES) if name != "mixed"])
@pytest.mark.parametrize("order", [1, 2])
def test_the_truth_and_the_mean_are_those_of_the_oracle(name: str, order: int) -> None:
    case = {**BITS, **CLASSES}[name]
    theta = case.parameter
    expected = oracles.exact_derivatives(case.program, [theta], order)
    found = an.verify(case.program, theta, order=order, nodes=2, tolerance=1e-8)["theta"]
    torch.testing.assert_close(found.exact, expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.mean, expected, rtol=1e-8, atol=1e-10)


def test_pathwise_and_score_are_one_by_quadrature() -> None:
    case = BITS["mixed"]
    found = an.verify(case.program, case.parameter, nodes=4, tolerance=1e-4)
    assert found.is_unbiased
    torch.testing.assert_close(found["theta"].mean, found["theta"].exact, rtol=1e-6, atol=1e-6)


def test_the_variance_is_that_of_the_oracle() -> None:
    case = BITS["layers"]
    theta = case.parameter
    expected = oracles.moments(case.program, [theta], oracles.score_function)
    found = an.verify(case.program, theta, estimators="score", baseline=None, credit=total_cost)
    torch.testing.assert_close(found["theta"].variance, expected.variance)
    assert found.variance == pytest.approx(float(expected.variance.sum()))


def test_the_rounding_of_a_cost_in_float32_is_no_bias() -> None:
    """A constant of Python times a class is float32, whatever the parameters are."""
    theta = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)

    def program(kind: torch.dtype) -> Tensor:
        logits = theta[0] * torch.arange(3) - theta[1] * torch.arange(3) ** 2 / 3
        z = Categorical(logits=torch.stack([logits, 0.5 * logits])).sample().to(kind)
        return ((1.7 * z).sin() + 0.3 * z * theta.sum()).sum() + 0.4 * z[0] * z[1]  # type: ignore[no-any-return]

    found = an.verify(program, torch.int64, estimators=RLOO(2))
    assert found.is_unbiased
    assert float(found["theta"].error.max()) > 1e-6
    exact = an.verify(program, torch.float64, estimators=RLOO(2))
    assert exact.is_unbiased
    assert float(exact["theta"].error.max()) < 1e-7


class Reversed:
    """Estimates the gradient with the wrong sign."""

    def __call__(self, site: SiteDraw) -> Tensor:
        return -DisARM()(site)


def test_a_bias_is_found() -> None:
    case = BITS["bits_in_pairs"]
    theta = case.parameter
    found = an.verify(case.program, theta, estimators=Reversed())
    assert not found.is_unbiased
    assert found.is_biased
    assert "NO" in str(found)
    by_draws = an.verify(case.program, theta, estimators=Reversed(), outcomes=2, draws=150)
    assert by_draws.method == "z-test"
    assert not by_draws.is_unbiased
    assert "more than 2 outcomes" in str(by_draws)


def test_draws_that_miss_a_rare_value_are_no_proof_of_a_bias() -> None:
    theta = torch.tensor([-14.0], dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        return (Bernoulli(logits=theta).sample() - 0.45).pow(2).sum()  # type: ignore[no-any-return]

    found = an.verify(program, estimators=ARM(), outcomes=1, draws=50)
    assert found.method == "z-test"
    assert not found.is_biased
    assert not found.is_unbiased  # no draw is 1: the score function seems to have no variance
    assert found["theta"].verdict == "not shown"
    assert "more draws" in str(found)
    assert "NO" not in str(found)


def test_a_z_test_tells_what_it_would_find() -> None:
    case = BITS["bits_in_pairs"]
    theta = case.parameter
    few, many = (
        an.verify(case.program, theta, estimators=DisARM(), outcomes=2, draws=draws)
        for draws in (20, 80)
    )
    assert few.is_unbiased
    assert many.is_unbiased
    assert many["theta"].detectable.max() < few["theta"].detectable.max()


def test_without_draws_the_reason_is_raised() -> None:
    case = BITS["bits_in_pairs"]
    with pytest.raises(TooManyOutcomesError, match="more than 2"):
        an.verify(case.program, case.parameter, outcomes=2, draws=0)

    def program() -> Tensor:
        shape = torch.tensor(0.3, requires_grad=True)
        return Beta(shape.exp(), 1.0).rsample()

    with pytest.raises(NotEnumerableError, match=r"site .*Beta"):
        an.verify(program, draws=0)


def test_a_quadrature_is_allowed_what_fewer_nodes_differ_by() -> None:
    loc = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        return Normal(loc, 1.0).rsample().sin()

    found = an.verify(program, nodes=20)
    assert found.is_unbiased
    expected = torch.tensor(0.2, dtype=torch.float64).cos() * torch.tensor(-0.5).exp()
    torch.testing.assert_close(found["loc"].exact, expected.double(), rtol=1e-6, atol=0)


def test_parameters_have_the_names_that_a_user_knows() -> None:
    layer = nn.Linear(1, 2).double()

    def program(x: Tensor) -> Tensor:
        return (Bernoulli(logits=layer(x)).sample() - 0.3).pow(2).sum()  # type: ignore[no-any-return]

    assert {*an.verify(program, torch.ones(1, dtype=torch.float64))} == {
        "layer.weight",
        "layer.bias",
    }
    chosen = an.verify(program, torch.ones(1, dtype=torch.float64), parameters={"b": layer.bias})
    assert [*chosen] == ["b"]


def test_a_baseline_that_learns_is_the_same_for_all_outcomes() -> None:
    case, baseline = BITS["one_bit"], RunningMean()
    first, second = (an.verify(case.program, case.parameter, baseline=baseline) for _ in range(2))
    assert first.is_unbiased
    assert first.variance == second.variance


def test_noise_outside_of_sites_is_refused() -> None:
    theta = torch.tensor([0.3], requires_grad=True)

    def program() -> Tensor:
        return (Bernoulli(logits=theta).sample() * torch.rand(1)).sum()  # type: ignore[no-any-return]

    with pytest.raises(NotAFunctionError, match="dropout"):
        an.verify(program)


def test_a_program_that_changes_is_refused_with_the_site_that_differs() -> None:
    theta, calls = BITS["one_bit"].parameter, [0]

    def program() -> Tensor:
        calls[0] += 1
        first = an.sample("first", Bernoulli(logits=theta))
        second = an.sample("second", Bernoulli(logits=theta + 0.1 * calls[0]))
        return (first.sum() - 0.3) ** 2 + second.sum() * first.sum()

    for estimators in ("score", DisARM(), RunRLOO(2)):
        with pytest.raises(NotAFunctionError, match="site 'second'"):
            an.verify(program, estimators=estimators)


def test_a_second_derivative_of_several_runs_is_refused() -> None:
    case = BITS["one_bit"]
    with pytest.raises(DerivativeOrderError, match="first derivative only"):
        an.verify(case.program, case.parameter, estimators=DisARM(), order=2)


def test_wrong_arguments_are_refused() -> None:
    case = BITS["one_bit"]
    for options, message in (
        ({"order": 3}, "order must be 1 or 2"),
        ({"outcomes": 0}, "outcomes"),
        ({"draws": 1}, "draws"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"tolerance": "x"}, "finite number greater than 0, not 'x'"),
        ({"tolerance": math.nan}, "tolerance"),
        ({"tolerance": True}, "tolerance"),
        ({"parameters": [torch.zeros(1)]}, "requires_grad"),
    ):
        with pytest.raises(ValueError, match=message):
            an.verify(case.program, case.parameter, **options)
    with pytest.raises(ValueError, match="no gradient"):
        an.verify(lambda: torch.zeros(()))
    with an.record(), pytest.raises(RuntimeError, match="outside"):
        an.verify(case.program, case.parameter)


def test_a_partial_program_has_the_names_of_its_function() -> None:
    case = BITS["one_bit"]
    program: Callable[..., Tensor] = case.program
    assert [*an.verify(functools.partial(program, case.parameter))] == ["theta"]
    assert [*an.verify(functools.partial(program, theta=case.parameter))] == ["theta"]


@pytest.mark.parametrize("factor", [1 + 1e-6, 1 - 1e-6])
@pytest.mark.parametrize("estimator", [DisARM(), RLOO(2)], ids=repr)
def test_a_small_bias_of_one_element_is_found(estimator: SiteEstimator, factor: float) -> None:
    case = BITS["bits_in_pairs"]
    theta = case.parameter
    scale = torch.tensor([factor, 1.0], dtype=torch.float64)

    def biased(site: SiteDraw) -> Tensor:
        (grad,) = torch.autograd.grad(estimator(site), [theta], retain_graph=True)
        return (grad * scale * theta).sum()

    found = an.verify(case.program, theta, estimators=biased)
    assert not found.is_unbiased
    off = abs(factor - 1) * found["theta"].exact.abs()[0]
    assert float(found["theta"].bias.abs()[0]) < 2 * float(off) + 1e-6


def slipping(site: SiteDraw) -> Tensor:
    raise NotImplementedError("a slip")


def test_a_slip_of_the_user_is_not_taken_for_what_there_is_not() -> None:
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor) -> Tensor:
        if theta.requires_grad:
            raise NotImplementedError("a slip")
        return theta.sum()

    bits = BITS["bits_in_pairs"].program
    for run in (
        lambda: an.verify(program, theta),
        lambda: an.verify(program, theta, order=2),
        lambda: an.verify(bits, theta, estimators=slipping),
    ):
        with pytest.raises(NotImplementedError, match="a slip") as raised:
            run()  # type: ignore[no-untyped-call]
        assert type(raised.value) is NotImplementedError


def test_the_truth_of_a_support_that_moves_is_pathwise() -> None:
    bounds = torch.tensor([0.3, 3.0], dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        return Uniform(bounds[0], bounds[1]).rsample() ** 2

    found = an.verify(program, nodes=4, draws=0)["bounds"]
    low, high = 0.3, 3.0  # E[z²] = (low² + low high + high²) / 3
    expected = torch.tensor([2 * low + high, low + 2 * high], dtype=torch.float64) / 3
    torch.testing.assert_close(found.exact, expected)
    torch.testing.assert_close(found.mean, expected)
