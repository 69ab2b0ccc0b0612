"""Parts of a loss that hold different draws fixed: sites that feed one another, coins, paths.

The estimates are compared, noise by noise, with those written by hand.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from noises import NOISES, SCALE, box, derivatives, double, forced, gradient_of, leaf, nodes
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an

# --- two sites that feed one another, and a coin that is drawn by the second ----------------------


@dataclass(frozen=True)
class Term:
    """A cost of both normals and the coin, and the normals that are scored for it."""

    cost: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    scored: str = ""
    is_of_coin: bool = False


TERMS = {
    "a": Term(lambda x, y, w, t: x.square()),
    "b": Term(lambda x, y, w, t: torch.round(y) * x * t[1], "y"),
    "c": Term(lambda x, y, w, t: torch.sign(x) * y, "x"),
    "d": Term(lambda x, y, w, t: (x > 0) * (y > 0) * y * t[1], "xy"),
    "e": Term(lambda x, y, w, t: (x * y).sin()),
    "f": Term(lambda x, y, w, t: w * x.square() * t[1], is_of_coin=True),
    "g": Term(lambda x, y, w, t: w * torch.round(x) * y, "x", is_of_coin=True),
    "h": Term(lambda x, y, w, t: torch.sign(x).double() * 0.3, "x"),
}
SUMS = ["ab", "ac", "be", "cd", "ag", "fg", "bf", "ah", "eh", "abc", "abcde", "bcfg", "abcdefgh"]


def mean_of(x: Tensor, theta: Tensor) -> Tensor:
    return torch.sin(x) * theta[1]


def by_hand(names: str, noise: Sequence[float], coin: float, theta: Tensor) -> Tensor:
    total = double(0.0)
    for term in map(TERMS.__getitem__, names):
        x = theta[0] + SCALE * noise[0]
        density = double(0.0)
        if "x" in term.scored:
            x = x.detach()
            density = density + Normal(theta[0], SCALE).log_prob(x)
        y = mean_of(x, theta) + SCALE * noise[1]
        if "y" in term.scored:
            y = y.detach()
            density = density + Normal(mean_of(x, theta), SCALE).log_prob(y)
        w = double(coin)
        if term.is_of_coin:
            density = density + Bernoulli(logits=y * theta[1]).log_prob(w)
        total = total + box(density) * term.cost(x, y, w, theta)
    return total


def recorded(names: str, noise: Sequence[float], coin: float, theta: Tensor) -> Tensor:
    with forced(noise, [coin]), an.record():
        x = Normal(theta[0], SCALE).rsample()
        y = Normal(mean_of(x, theta), SCALE).rsample()
        w = Bernoulli(logits=y * theta[1]).sample()
        costs = [TERMS[name].cost(x, y, w, theta) for name in names]
        loss: Tensor = sum(costs[1:], costs[0])
    return loss


@pytest.mark.parametrize("names", SUMS)
def test_each_term_holds_fixed_what_is_scored_for_it(names: str) -> None:
    noises = itertools.product((-1.1, 0.1, 0.9), (-0.7, 0.3), (0.0, 1.0))
    for first, second, coin in noises:
        hand, theta = leaf(), leaf()
        expected = derivatives(by_hand(names, (first, second), coin, hand), hand)
        loss = recorded(names, (first, second), coin, theta)
        found = an.surrogate(loss)
        torch.testing.assert_close(found.detach(), an.untrack(loss).detach())
        torch.testing.assert_close(derivatives(found, theta), expected)
        theta = leaf()
        loss = recorded(names, (first, second), coin, theta)
        torch.testing.assert_close(gradient_of(loss, theta, retain_graph=True), expected[0])
        torch.testing.assert_close(gradient_of(loss, theta), 2 * expected[0])  # once more


# --- paths that differ ----------------------------------------------------------------------------

Smooth = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Path:
    """What is computed on one side of a coin, and whether the normal is scored for it."""

    cost: Smooth
    is_scored: bool


def after_a_read(x: Tensor, theta: Tensor) -> Tensor:
    factor = 2.0 if x.item() > 0 else 0.5
    return x.exp() * factor


SCORED = {
    "a rounding": Path(lambda x, t: torch.sign(x) * x.exp() * t[1], is_scored=True),
    "a read": Path(after_a_read, is_scored=True),
}
SMOOTH = {
    "smooth": Path(lambda x, t: x.cos() * t[1], is_scored=False),
    "nothing of the normal": Path(lambda x, t: t[1].exp() + 0 * x, is_scored=False),
}
SIDES = [*itertools.product(SCORED.values(), SMOOTH.values())]


def on_path(
    path: Path, noise: float, coin: float, theta: Tensor, *, is_coin_credited: bool
) -> Tensor:
    """Return what a person writes: a finished cost, and one of the side that the coin chose."""
    live, w = theta[0] + SCALE * noise, double(coin)
    fixed = live.detach()
    density = Bernoulli(logits=live * theta[1]).log_prob(w)
    finished = live.sin() * (box(density) if is_coin_credited else 1)
    if not path.is_scored:
        return finished + box(density) * path.cost(live, theta)
    densities = Normal(theta[0], SCALE).log_prob(fixed) + Bernoulli(
        logits=fixed * theta[1]
    ).log_prob(w)
    return finished + box(densities) * path.cost(fixed, theta)


def run(sides: Sequence[Path], noise: float, coin: float, theta: Tensor, control: str) -> Any:
    is_declared = control == "declared"
    with (
        forced([noise], [coin]),
        an.record(control="strict" if is_declared else control) as trace,
    ):
        x = Normal(theta[0], SCALE).rsample()
        w = Bernoulli(logits=x * theta[1]).sample()
        finished = x.sin()
        if is_declared:
            an.cost("finished", finished)
        extra = sides[0].cost(x, theta) if w > 0 else sides[1].cost(x, theta)
        if is_declared:
            an.cost("extra", extra)
            return trace
        return finished + extra


@pytest.mark.parametrize("control", ["after", "declared"])
@pytest.mark.parametrize("is_swapped", [False, True])
@pytest.mark.parametrize("sides", SIDES)
def test_a_finished_term_stays_pathwise_whichever_path_is_taken(
    sides: tuple[Path, Path], is_swapped: bool, control: str
) -> None:
    mean, truth = torch.zeros(2).double(), torch.zeros(2).double()
    paths = sides[::-1] if is_swapped else sides
    for noise, mass in nodes([0.0]):
        for coin, path in zip((1.0, 0.0), paths, strict=True):
            hand, theta = leaf(), leaf()
            found = gradient_of(run(paths, noise, coin, theta, control), theta)
            expected = on_path(path, noise, coin, hand, is_coin_credited=False)
            torch.testing.assert_close(found, torch.autograd.grad(expected, hand)[0])
            x = hand.detach()[0] + SCALE * noise
            density = Bernoulli(logits=x * hand[1]).log_prob(double(coin))
            weight = mass * float(density.detach().exp())
            mean += weight * found
            # With all scored, and credited with all.
            density = density + Normal(hand[0], SCALE).log_prob(x)
            whole = box(density) * (x.sin() + path.cost(x, hand))
            truth += weight * torch.autograd.grad(whole, hand)[0]
    torch.testing.assert_close(mean, truth, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("sides", SIDES)
def test_under_strict_a_coin_that_was_read_is_credited_and_a_normal_that_was_not_is_pathwise(
    sides: tuple[Path, Path],
) -> None:
    for noise, coin in itertools.product(NOISES, (0.0, 1.0)):
        path = sides[0] if coin else sides[1]
        if path.cost is after_a_read:  # then all is scored
            continue
        hand, theta = leaf(), leaf()
        expected = on_path(path, noise, coin, hand, is_coin_credited=True)
        found = an.surrogate(run(sides, noise, coin, theta, "strict"))
        torch.testing.assert_close(derivatives(found, theta), derivatives(expected, hand))
