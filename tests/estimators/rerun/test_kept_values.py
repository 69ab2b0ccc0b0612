"""What a program keeps from run to run: refused where the loss depends on an earlier draw."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
)
from torch.distributions.transforms import AffineTransform

import ancestral as an
from ancestral.errors import NotAFunctionError
from ancestral.estimators import RLOO, DisARM, LocalExpectation


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def cached() -> Callable[[Tensor], Tensor]:
    """Return a program that keeps what it drew first."""
    known: dict[str, Tensor] = {}

    def program(theta: Tensor) -> Any:
        z = Bernoulli(logits=theta).sample()
        kept = known.setdefault("z", z)
        return (z * kept - 0.3).pow(2).sum()

    return program


def carried() -> Callable[[Tensor], Tensor]:
    """Return a program with a state that each run moves on, as an environment has."""
    state = [torch.zeros(2, dtype=torch.float64)]

    def program(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta).sample()
        state[0] = 0.5 * state[0] + z
        return (state[0] ** 2).sum()

    return program


def averaged() -> Callable[[Tensor], Tensor]:
    """Return a program with the statistics of a layer, which it reads as training moves them."""
    layer = nn.BatchNorm1d(2, momentum=0.5).double()

    def program(theta: Tensor) -> Tensor:
        z = Bernoulli(logits=theta.expand(4, 2)).sample()
        normalized = layer(z)
        return (normalized[0] + layer.running_mean).pow(2).sum()  # type: ignore[no-any-return]

    return program


@pytest.mark.parametrize("make", [cached, carried, averaged])
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("estimator", [DisARM(), RLOO(2), LocalExpectation()], ids=repr)
def test_a_loss_of_earlier_draws_is_refused(
    make: Callable[[], Callable[[Tensor], Tensor]], check: bool, estimator: Any
) -> None:
    torch.manual_seed(1)  # with which the other draws are others
    with pytest.raises(NotAFunctionError, match="not a function of its arguments"):
        an.estimate(make(), leaf(0.3, -0.8), estimators=estimator, check=check)


def test_the_site_of_the_earlier_run_is_named() -> None:
    with pytest.raises(NotAFunctionError, match=r"site 'z' \(.*test_kept_values.py:\d+\) was in"):
        an.estimate(cached(), leaf(0.3, -0.8), estimators=LocalExpectation(), check=False)


@pytest.mark.parametrize("make", [cached, carried])
def test_it_is_not_verified_either(make: Callable[[], Callable[[Tensor], Tensor]]) -> None:
    with pytest.raises(NotAFunctionError, match="the loss of one run depends on"):
        an.verify(make(), leaf(0.3, -0.8), estimators="score")


def test_statistics_that_training_writes_and_nothing_reads_are_no_matter() -> None:
    layer = nn.BatchNorm1d(2, affine=False).double()
    theta = leaf(0.3, -0.8)

    def program() -> Tensor:
        z = Bernoulli(logits=theta.expand(2, 2)).sample()
        return layer(z + torch.arange(2.0).reshape(2, 1)).pow(3).mean()  # type: ignore[no-any-return]

    assert an.estimate(program, estimators=LocalExpectation()).evaluations == 3
    assert an.verify(program, estimators=LocalExpectation()).is_unbiased


def test_a_value_that_was_replayed_may_be_kept_for_the_eye() -> None:
    theta, seen = leaf(0.3, -0.8), []

    def program() -> Any:
        beside = Normal(theta, 1.0).sample()
        z = Bernoulli(logits=theta).sample()
        seen.append((beside, z))
        return (beside * z).sum()

    assert an.estimate(program, estimators={"z": DisARM(), "*": "auto"}).evaluations == 2


COUNT = [0.0]


def count() -> Tensor:
    COUNT[0] += 1.0
    return torch.tensor(COUNT[0], dtype=torch.float64)


CHANGING: dict[str, Callable[[Tensor], Any]] = {
    "components": lambda theta: MixtureSameFamily(
        Categorical(logits=theta.detach()), Normal(theta.detach() * count(), 1.0)
    ),
    "mixture": lambda theta: MixtureSameFamily(
        Categorical(logits=theta.detach() * count()), Normal(theta.detach(), 1.0)
    ),
    "base": lambda theta: TransformedDistribution(
        Normal(theta.detach() * count(), 1.0), AffineTransform(0.0, 2.0)
    ),
    "independent": lambda theta: Independent(Normal(theta.detach() * count(), 1.0), 1),
}


@pytest.mark.parametrize("name", CHANGING)
def test_a_distribution_whose_parts_change_is_refused(name: str) -> None:
    theta = leaf(0.3, -0.8)

    def program() -> Tensor:
        w = CHANGING[name](theta).sample()
        z = Bernoulli(logits=theta).sample()
        return (w * z).sum()  # type: ignore[no-any-return]

    with pytest.raises(NotAFunctionError, match=r"'w'.*has another distribution"):
        an.estimate(program, estimators={"z": LocalExpectation(), "*": "auto"}, check=False)
