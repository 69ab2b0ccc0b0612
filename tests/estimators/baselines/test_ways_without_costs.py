"""A baseline is subtracted on every way of a program, with or without a cost of what was read."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
import oracles

pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")


def directly(theta: Tensor, cost: Callable[[str, Tensor], Any]) -> None:
    x = Bernoulli(logits=theta[0]).sample()
    y = Bernoulli(logits=theta[1]).sample()
    cost("first", (y + 3.0) ** 2)
    if x.item() > 0:
        cost("second", (2 * y).exp())


def by_a_draw_below(theta: Tensor, cost: Callable[[str, Tensor], Any]) -> None:
    x = Bernoulli(logits=theta[0]).sample()
    z = Bernoulli(logits=theta[1] - x).sample()
    y = Bernoulli(logits=theta[1]).sample()
    cost("first", (y + 3.0) ** 2)
    if z.item() > 0:
        cost("second", (2 * y).exp())


def of_a_vector(theta: Tensor, cost: Callable[[str, Tensor], Any]) -> None:
    x = Bernoulli(logits=theta).sample()
    y = Bernoulli(logits=theta[1]).sample()
    cost("first", (y + 3.0) ** 2)
    if x[0].item() > 0:
        cost("second", (2 * y + x[1]).exp())


class Five:
    """A constant."""

    is_proven = True

    def __call__(self, credit: an.estimators.Credit, /) -> Tensor:
        return torch.tensor(5.0, dtype=torch.float64)


def summed(program: Callable[..., None]) -> Callable[[Tensor], Tensor]:
    def run(theta: Tensor) -> Tensor:
        costs: list[Tensor] = []
        program(theta, lambda _, value: costs.append(value))
        return torch.stack(costs).sum()

    return run


def estimate(program: Callable[..., None], how: str, baseline: Any) -> oracles.Estimate:
    def found(_: Any, parameters: Sequence[Tensor]) -> Tensor:
        (theta,) = parameters
        theta.grad = None
        if how == "declared":
            with an.record() as trace:
                program(theta, an.cost)
            trace.backward(baseline=baseline)
        else:
            with an.record(control="after" if how == "after" else "strict"):
                loss = summed(program)(theta)
            an.backward(loss, baseline=baseline)
        assert theta.grad is not None
        return theta.grad.clone()

    return found


@pytest.mark.parametrize("how", ["declared", "after", "strict"])
@pytest.mark.parametrize("program", [directly, by_a_draw_below, of_a_vector])
def test_the_mean_is_exact(program: Callable[..., None], how: str) -> None:
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    expected = oracles.exact_gradient(summed(program), [theta])
    found = oracles.moments(summed(program), [theta], estimate(program, how, Five()))
    torch.testing.assert_close(found.mean, expected, rtol=1e-10, atol=1e-12)
