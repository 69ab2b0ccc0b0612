"""Estimators that differentiate the loss by the value of a site have the exact gradient as mean."""

import pytest
import torch
from programs.reruns import BITS, CLASSES, Case
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import oracles
from ancestral.errors import EstimatorError
from ancestral.estimators import REBAR, RELAX, DoubleCV, MuProp, total_cost
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.rerun.estimate import Chosen, Plan, estimate
from ancestral.estimators.rerun.moments import moments_of
from ancestral.estimators.rerun.site_draw import SiteEstimator

OF_BITS = [name for name in BITS if name != "elbo"] + ["elbo_of_any_number"]


def elbo_of_any_number(theta: Tensor) -> Tensor:
    """The densities of a relaxed value are those of a formula."""
    q = Bernoulli(logits=theta, validate_args=False)
    z = q.sample()
    p = Bernoulli(logits=torch.tensor([0.3, -0.2], dtype=theta.dtype), validate_args=False)
    return (q.log_prob(z) - p.log_prob(z)).sum() + (z.sum() - 0.4) ** 2  # type: ignore[no-any-return]


ALL = {**BITS, **CLASSES, "elbo_of_any_number": Case(elbo_of_any_number, [0.9, -0.3])}


@pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")
@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        (name, estimator)
        for name in (*OF_BITS, "one_hot", "one_hot_pair")
        for estimator in (MuProp(), DoubleCV(2))
        if name != "in_a_plate" or estimator == MuProp()  # which has few outcomes
    ],
    ids=str,
)
def test_of_constant_slopes(name: str, estimator: SiteEstimator) -> None:
    case = ALL[name]
    theta = case.parameter
    exact = oracles.exact_gradient(case.program, [theta])
    chosen: PerSite[Chosen] = {"z": estimator, "*": "auto"} if name == "mixed" else estimator
    found = moments_of(lambda: case.program(theta), Plan(chosen), [theta], nodes=2)
    torch.testing.assert_close(found.mean, exact, rtol=1e-8, atol=1e-10)


def control(y: Tensor) -> Tensor:
    return 0.3 * y.tanh().sum() + 0.1 * y.prod()


def test_credit_of_the_whole_loss_has_the_same_mean() -> None:
    case = BITS["one_bit"]
    theta = case.parameter
    exact = oracles.exact_gradient(case.program, [theta])
    plan = Plan(REBAR(1.0), None, total_cost)
    found = moments_of(lambda: case.program(theta), plan, [theta], nodes=40)
    torch.testing.assert_close(found.mean, exact, rtol=1e-8, atol=1e-10)


def test_a_control_variate_learns_by_the_second_moment() -> None:
    theta = torch.tensor([0.2, -0.4], requires_grad=True)
    weights = torch.zeros(2, requires_grad=True)

    def learned(y: Tensor) -> Tensor:
        return (weights * y.sigmoid()).sum()

    def program() -> Tensor:
        return 3.0 * (Bernoulli(logits=theta).sample() - 0.45).pow(2).sum() + 5.0  # type: ignore[no-any-return]

    def variance() -> float:
        torch.manual_seed(1)
        found = [estimate(program, estimators=RELAX(learned), check=False) for _ in range(60)]
        grads = [torch.autograd.grad(each.surrogate, [theta])[0] for each in found]
        return float(torch.stack(grads).var(0).sum())

    before, optimizer = variance(), torch.optim.Adam([weights], lr=0.3)
    for _ in range(80):
        optimizer.zero_grad()
        found = estimate(program, estimators=RELAX(learned), check=False)
        assert found.second_moment is not None
        found.second_moment.backward()
        optimizer.step()
    assert theta.grad is None
    assert variance() < before / 2


def test_a_control_variate_gets_no_gradient_from_the_surrogate() -> None:
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    case = BITS["bits_in_pairs"]
    theta = case.parameter
    found = estimate(case.program, theta, estimators=RELAX(lambda y: (weight * y).sum()))
    found.surrogate.backward()
    assert weight.grad is None
    assert theta.grad is not None


def test_a_control_variate_that_is_no_scalar_is_refused() -> None:
    case = BITS["bits_in_pairs"]
    with pytest.raises(ValueError, match=r"site 'z' .*expected a scalar"):
        estimate(case.program, case.parameter, estimators=RELAX(lambda y: y))


def test_a_smooth_draw_below_is_followed() -> None:
    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor, size: int = 1000) -> Tensor:
        z = Bernoulli(logits=theta.expand(size)).sample()
        return (Normal(z * theta, 0.3).rsample() - 0.2).pow(2).mean()

    exact = oracles.exact_gradient(lambda theta: program(theta, 1), [theta])
    torch.manual_seed(0)
    found = [estimate(program, theta, estimators={"z": REBAR(1.0)}) for _ in range(12)]
    grads = torch.stack([torch.autograd.grad(each.surrogate, [theta])[0] for each in found])
    assert abs(float(grads.mean() - exact)) < 5 * float(grads.std()) / 12**0.5 < 0.05


def stepped(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta).sample()
    return (z > 0.5).to(theta.dtype).sum() * 2.0 + theta.sum()  # type: ignore[no-any-return]


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
