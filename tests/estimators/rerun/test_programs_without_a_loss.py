"""Programs that return nothing and declare their costs are those that return the sum of them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

import ancestral as an
import oracles
from ancestral.errors import NotAFunctionError
from ancestral.estimators import RLOO, DisARM, ExactSum, LocalExpectation, RunRLOO

pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

AT = torch.tensor([0.3, -0.8], dtype=torch.float64)
Declared = Callable[[Tensor, Callable[[str, Tensor], Any]], None]


def two_costs(theta: Tensor, cost: Callable[[str, Tensor], Any]) -> None:
    z = Bernoulli(logits=theta).sample()
    cost("pair", (z[0] - 0.4 * z[1]) ** 2 * theta[0])
    cost("each", (z - 0.3) ** 2)


def layers(theta: Tensor, cost: Callable[[str, Tensor], Any]) -> None:
    x = Bernoulli(logits=theta).sample()
    cost("above", x * theta)
    y = Categorical(logits=theta * (1 + x.sum())).sample()
    cost("below", (y - 0.6 * x[1] + 0.1) ** 2)


def read_after_a_cost(theta: Tensor, cost: Callable[[str, Tensor], Any]) -> None:
    x = Bernoulli(logits=theta[0]).sample()
    y = Bernoulli(logits=theta[1]).sample()
    cost("first", (y + 3.0) ** 2 * theta[1])
    if x.item() > 0:
        cost("second", y * 2.0)


def declared_on_one_way(theta: Tensor, cost: Callable[[str, Tensor], Any]) -> None:
    x = Bernoulli(logits=theta).sample()
    if x[0].item() > 0:
        cost("only", (x[1] - 0.2) ** 2 * theta[1])


PROGRAMS = [two_costs, layers, read_after_a_cost, declared_on_one_way]


def returning(program: Declared) -> Callable[[Tensor], Tensor]:
    def run(theta: Tensor) -> Tensor:
        costs: list[Tensor] = []
        program(theta, lambda _, value: costs.append(value.sum()))
        return torch.stack(costs).sum() if costs else 0 * theta.sum()

    return run


def declaring(program: Declared) -> Callable[[Tensor], None]:
    return lambda theta: program(theta, an.cost)


@pytest.mark.parametrize("estimator", ["auto", RLOO(2), LocalExpectation(), ExactSum()], ids=repr)
@pytest.mark.parametrize("program", PROGRAMS)
def test_the_mean_is_the_gradient_of_the_sum(program: Declared, estimator: Any) -> None:
    theta = AT.clone().requires_grad_()
    exact = oracles.exact_gradient(returning(program), [theta])
    found = an.verify(declaring(program), theta, estimators=estimator, draws=0)
    torch.testing.assert_close(found[found_name(found)].mean, exact, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found[found_name(found)].exact, exact, rtol=1e-8, atol=1e-10)
    assert found.is_unbiased


def found_name(found: an.estimators.Verification) -> str:
    (name,) = found
    return name


@pytest.mark.parametrize(("program", "name"), [(two_costs, "z"), (layers, "x")])
def test_the_estimate_is_that_of_the_sum(program: Declared, name: str) -> None:
    found = []
    for each in (declaring(program), returning(program)):
        torch.manual_seed(2)
        theta = AT.clone().requires_grad_()
        estimate = an.estimate(each, theta, estimators={name: DisARM(), "*": RLOO(3)})
        found.append((estimate.value, *torch.autograd.grad(estimate.surrogate, [theta])))
    torch.testing.assert_close(*found)


def test_a_read_after_a_cost_leaves_it_apart() -> None:
    theta = AT.clone().requires_grad_()
    one = an.verify(declaring(read_after_a_cost), theta, estimators="score", baseline=None)
    other = an.verify(returning(read_after_a_cost), theta, estimators="score", baseline=None)
    assert one.is_unbiased
    assert other.is_unbiased
    assert one.variance < other.variance


def test_data_that_is_observed_and_the_scale_of_a_plate_count() -> None:
    theta, data = AT.clone().requires_grad_(), torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)

    def program() -> None:
        z = an.sample("z", Bernoulli(logits=theta[0]))
        with an.plate("examples", 6, subsample=torch.arange(3)):
            an.sample("x", Bernoulli(logits=theta[1] + z), obs=data)
        an.factor("prior", -z)

    def returned(theta: Tensor) -> Any:
        z = Bernoulli(logits=theta[0]).sample()
        return z - 2 * Bernoulli(logits=theta[1] + z).log_prob(data).sum()

    exact = oracles.exact_gradient(returned, [theta])
    found = an.verify(program, estimators={"z": LocalExpectation()}, draws=0)
    torch.testing.assert_close(found["theta"].mean, exact, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("estimator", [LocalExpectation(), RunRLOO(2)], ids=repr)
def test_a_run_without_costs_may_be_differentiated(estimator: Any) -> None:
    theta = AT.clone().requires_grad_()
    for seed in range(4):
        torch.manual_seed(seed)
        found = an.estimate(declaring(declared_on_one_way), theta, estimators=estimator)
        if found.surrogate.requires_grad:
            found.surrogate.backward()


def test_nothing_returned_and_nothing_declared_is_refused() -> None:
    def program() -> None:
        Bernoulli(logits=AT.clone().requires_grad_()).sample()

    for function in (an.estimate, an.verify):
        with pytest.raises(TypeError, match=r"returned None, and declares no cost"):
            function(program)


def test_a_cost_of_an_earlier_run_is_refused() -> None:
    theta, kept = AT.clone().requires_grad_(), list[Tensor]()

    def program() -> None:
        z = Bernoulli(logits=theta).sample()
        kept.append(z)
        an.cost("kept", kept[0] * z)

    with pytest.raises(NotAFunctionError, match="in an earlier one"):
        an.estimate(program, estimators=LocalExpectation(), check=False)
    kept.clear()
    with pytest.raises(NotAFunctionError, match="in an earlier one"):
        an.verify(program)
