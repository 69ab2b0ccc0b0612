import math
from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor, nn

from ancestral.tools.demo.variance import VarianceRow, measure
from ancestral.tools.study.table import TOTAL

P = 0.3
COSTS = (0.5, 2.0)  # of the draws 0 and 1


class Coin(nn.Module):
    """One Bernoulli draw with a logit to learn, and a cost for each side."""

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.tensor(math.log(P / (1 - P))))


def score_function(coin: Coin) -> Callable[[], None]:
    """Return the estimate f(z) * d log q(z) by hand, where d log q(z) / d logit = z - p."""

    def estimate() -> None:
        p = torch.sigmoid(coin.logit.detach())
        z = torch.bernoulli(p)
        coin.logit.grad = (COSTS[0] + (COSTS[1] - COSTS[0]) * z) * (z - p)

    return estimate


def central_moments() -> tuple[float, float]:
    """Return the exact variance and fourth central moment of the estimate."""
    gradients = (COSTS[0] * -P, COSTS[1] * (1 - P))
    weights = (1 - P, P)
    mean = sum(w * g for w, g in zip(weights, gradients, strict=True))
    second, fourth = (
        sum(w * (g - mean) ** power for w, g in zip(weights, gradients, strict=True))
        for power in (2, 4)
    )
    return second, fourth


def by_layer(rows: list[VarianceRow]) -> dict[tuple[str, str], float]:
    return {(row.estimator, row.layer): row.variance for row in rows}


def test_the_variance_of_a_coin_is_within_four_standard_errors_of_the_exact_one() -> None:
    repeats = 4000
    coin = Coin()
    second, fourth = central_moments()
    # The variance of an unbiased sample variance of K independent draws.
    error = math.sqrt((fourth - second**2 * (repeats - 3) / (repeats - 1)) / repeats)
    rows = measure(coin, {"score": score_function(coin)}, repeats)
    assert abs(by_layer(rows)["score", TOTAL] - second) < 4 * error


def feeder(model: nn.Module, gradients: Tensor) -> Callable[[], None]:
    """Return an estimate that hands out the rows of [repeats, coordinates] one by one."""
    rows = cycle(gradients)
    sizes = [p.numel() for p in model.parameters()]

    def estimate() -> None:
        for p, part in zip(model.parameters(), torch.split(next(rows), sizes), strict=True):
            p.grad = part.reshape(p.shape).clone()

    return estimate


def test_every_layer_sums_the_variance_of_its_coordinates() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    # A mean that is large against the spread: a difference of squares would be off in float32.
    gradients = 1000 + torch.randn(50, 11, generator=torch.Generator().manual_seed(0))
    exact = gradients.double().var(0)
    found = by_layer(measure(model, {"fed": feeder(model, gradients)}, repeats=50))
    expected = {
        ("fed", "0"): float(exact[:8].sum()),
        ("fed", "1"): float(exact[8:].sum()),
        ("fed", TOTAL): float(exact.sum()),
    }
    assert found == pytest.approx(expected, rel=1e-9)


def test_repeats_before_the_count_do_not_enter() -> None:
    model = nn.Linear(1, 1, bias=False)
    gradients = torch.tensor([[1e6], [-1e6], [1.0], [3.0]])
    rows = measure(model, {"fed": feeder(model, gradients)}, repeats=2, warm_up=2)
    assert [row.variance for row in rows] == [2.0, 2.0]
    assert [row.repeats for row in rows] == [2, 2]


def test_a_parameter_with_no_gradient_has_no_variance() -> None:
    model = nn.Linear(2, 1)

    def estimate() -> None:
        model.bias.grad = torch.randn(1)

    rows = measure(model, {"bias": estimate}, repeats=20)
    assert by_layer(rows)["bias", "weight"] == 0
    assert by_layer(rows)["bias", "bias"] > 0


def test_all_estimators_see_the_same_parameters_and_the_same_draws() -> None:
    coin = Coin()
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {"one": [], "two": []}

    def watcher(name: str) -> Callable[[], None]:
        def estimate() -> None:
            seen[name].append((coin.logit.detach().clone(), torch.rand(3)))
            coin.logit.grad = torch.zeros(())

        return estimate

    measure(coin, {name: watcher(name) for name in seen}, repeats=5)
    for (theta, draws), (other_theta, other_draws) in zip(seen["one"], seen["two"], strict=True):
        assert torch.equal(theta, other_theta)
        assert torch.equal(draws, other_draws)
    assert not torch.equal(seen["one"][0][1], seen["one"][1][1])


def test_parameters_and_generator_are_left_bit_for_bit() -> None:
    coin = Coin()
    logit, generator = coin.logit.detach().clone(), torch.random.get_rng_state()
    measure(coin, {"score": score_function(coin)}, repeats=5)
    assert torch.equal(coin.logit, logit)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert coin.logit.grad is None


def test_the_same_seed_gives_the_same_rows_and_another_gives_others() -> None:
    coin = Coin()
    estimators = {"score": score_function(coin)}
    assert measure(coin, estimators, 20, seed=1) == measure(coin, estimators, 20, seed=1)
    assert measure(coin, estimators, 20, seed=1) != measure(coin, estimators, 20, seed=2)


def test_every_repeat_ticks() -> None:
    coin = Coin()
    ticks: list[None] = []
    measure(coin, {"score": score_function(coin)}, 3, warm_up=2, tick=lambda: ticks.append(None))
    assert len(ticks) == 5


def test_one_repeat_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two repeats, got 1"):
        measure(Coin(), {}, repeats=1)
