"""Estimators that differentiate the loss by the value of a site have the exact gradient as mean."""

import pytest
import torch
from programs.reruns import BITS, CLASSES, Case
from torch import Tensor
from torch.distributions import Bernoulli, Normal, OneHotCategorical

import oracles
from ancestral.errors import EstimatorError
from ancestral.estimators import REBAR, DoubleCV, MuProp, total_cost
from ancestral.estimators.rerun.estimate import Plan, estimate
from ancestral.estimators.rerun.moments import moments_of
from ancestral.estimators.rerun.site_draw import SiteEstimator

SMOOTH = ["one_bit", "bits_in_pairs", "batch", "many_of_one", "beside"]


@pytest.mark.parametrize("estimator", [MuProp(), DoubleCV(2)], ids=repr)
@pytest.mark.parametrize("case", [*map(BITS.get, [*SMOOTH, "layers"]), CLASSES["one_hot"]])
def test_of_constant_slopes(case: Case, estimator: SiteEstimator) -> None:
    theta = case.parameter
    exact = oracles.exact_gradient(case.program, [theta])
    found = moments_of(lambda: case.program(theta), Plan(estimator), [theta])
    torch.testing.assert_close(found.mean, exact, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["one_bit", "beside", "many_of_one"])
@pytest.mark.parametrize("estimator", [REBAR(1.0), REBAR(0.5, 0.3)], ids=repr)
def test_rebar_of_bits(name: str, estimator: REBAR) -> None:
    case = BITS[name]
    theta = case.parameter
    exact = oracles.exact_gradient(case.program, [theta])
    # A quadrature of fewer nodes is worth fewer digits.
    nodes, tolerance = {"one_bit": (40, 1e-8), "beside": (20, 1e-6)}.get(name, (6, 2e-3))
    found = moments_of(lambda: case.program(theta), Plan(estimator), [theta], nodes=nodes)
    torch.testing.assert_close(found.mean, exact, rtol=tolerance, atol=tolerance)


def test_rebar_of_a_pair_whose_costs_are_mixed() -> None:
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta).sample()
        return (z[0] - 0.4 * z[1] + 0.2) ** 3

    exact = oracles.exact_gradient(program, [theta])
    for credit in (None, total_cost):
        plan = Plan(REBAR(1.0), None, credit) if credit else Plan(REBAR(1.0), None)
        found = moments_of(lambda: program(theta), plan, [theta], nodes=8)
        torch.testing.assert_close(found.mean, exact, rtol=1e-5, atol=1e-5)


def test_rebar_of_one_hot_draws() -> None:
    theta = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor) -> Tensor:
        z = OneHotCategorical(logits=theta).sample()
        return (z * torch.tensor([1.0, -0.5], dtype=theta.dtype)).sum() ** 2

    exact = oracles.exact_gradient(program, [theta])
    found = moments_of(lambda: program(theta), Plan(REBAR(1.0), None), [theta], nodes=16)
    torch.testing.assert_close(found.mean, exact, rtol=1e-3, atol=1e-3)


def test_a_smooth_draw_below_is_followed() -> None:
    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta).sample()
        return (Normal(z * theta, 0.3).rsample() - 0.2) ** 2

    exact = oracles.exact_gradient(program, [theta])
    found = moments_of(lambda: program(theta), Plan({"z": REBAR(1.0)}), [theta], nodes=8)
    torch.testing.assert_close(found.mean, exact.reshape(1), rtol=1e-5, atol=1e-5)


def stepped(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta).sample()
    return (z > 0.5).to(theta.dtype).sum() * 2.0 + theta.sum()


def read(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta[0]).sample()
    return theta[1] * 2 + 0 * z if z > 0.5 else theta[1]


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")
@pytest.mark.parametrize("program", [stepped, read])
def test_a_step_is_refused(program: object) -> None:
    theta = torch.tensor([0.4, 0.1], dtype=torch.float64, requires_grad=True)
    with pytest.raises(EstimatorError, match=r"site 'z' .*reruns|site 'z' .*a step without one"):
        estimate(program, theta, estimators={"z": REBAR()})  # type: ignore[arg-type]


def test_a_draw_below_without_a_derivative_is_refused() -> None:
    case = BITS["layers"]
    with pytest.raises(EstimatorError, match=r"site 'x' .*reaches site 'y' .*LocalExpectation"):
        estimate(case.program, case.parameter, estimators={"x": REBAR()})


def test_a_density_of_a_relaxed_value_is_refused_with_what_to_do() -> None:
    case = BITS["elbo"]
    with pytest.raises(ValueError, match="support") as raised:
        estimate(case.program, case.parameter, estimators=REBAR())
    assert "validate_args=False" in "".join(raised.value.__notes__)
