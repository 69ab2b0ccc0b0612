"""Parts of a loss that hold different draws fixed: sites that feed one another, coins, paths.

The estimates are compared, noise by noise, with those written by hand.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from noises import NOISES, SCALE, THETA, box, derivatives, double, forced, gradient_of, leaf, nodes
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.errors import DerivativeOrderError

# Some of the programs decide by what they read, for what is tested.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

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


# --- passes, hooks, baselines, orders -------------------------------------------------------------


def mixed(theta: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Return a draw, and a loss of which one term holds it fixed and reaches it."""
    with forced([noise]), an.record():
        z = Normal(theta[0], SCALE).rsample()
        loss = (torch.sign(z) * z * theta[1]).exp() + z.square()
    return z, loss


def mixed_by_hand(theta: Tensor, noise: float, factor: float = 1.0) -> Tensor:
    live = theta[0] + SCALE * noise
    fixed = live.detach()
    ratio = box(Normal(theta[0], SCALE).log_prob(fixed))
    passed = factor * live.square() + (1 - factor) * fixed.square()
    return ratio * (torch.sign(fixed) * fixed * theta[1]).exp() + passed


@pytest.mark.parametrize("noise", NOISES)
def test_hooks_of_the_user_see_what_passes_and_leaves_are_accumulated_once(noise: float) -> None:
    theta, hand = leaf(), leaf()
    sent: list[Tensor] = []
    calls: list[Tensor] = []
    theta.register_post_accumulate_grad_hook(calls.append)
    z, loss = mixed(theta, noise)

    def thrice(gradient: Tensor) -> Tensor:
        sent.append(gradient)
        return 3 * gradient

    z.register_hook(thrice)
    (expected,) = torch.autograd.grad(mixed_by_hand(hand, noise, 3.0), hand)
    torch.testing.assert_close(gradient_of(loss, theta), expected)
    assert len(calls) == 1
    for each in sent:
        torch.testing.assert_close(each, 2 * an.untrack(z).detach())


def test_a_gradient_by_a_value_upstream_is_whole() -> None:
    theta, hand = leaf(), leaf()
    inner, inner_by_hand = theta * 1.5, hand * 1.5
    _, loss = mixed(inner, 0.4)
    expected = derivatives(mixed_by_hand(inner_by_hand, 0.4), inner_by_hand)
    torch.testing.assert_close(derivatives(an.surrogate(loss), inner), expected)


def test_within_the_block_a_gradient_is_that_of_the_block() -> None:
    theta, hand = leaf(), leaf()
    with forced([0.4]), an.record():
        z = Normal(theta[0], SCALE).rsample()
        loss = (torch.sign(z) * z * theta[1]).exp() + z.square()
        found = derivatives(an.surrogate(loss), theta)
        an.backward(loss, inputs=[theta])
    expected = derivatives(mixed_by_hand(hand, 0.4), hand)
    torch.testing.assert_close(an.untrack(found), expected)
    assert theta.grad is not None
    torch.testing.assert_close(an.untrack(theta.grad), expected[0])


def test_the_third_derivative_is_refused_where_it_is_not_there_and_right_where_it_is() -> None:
    theta = leaf()
    _, loss = mixed(theta, 0.4)

    def third(scalar: Tensor) -> Tensor:
        for _ in range(3):
            scalar = torch.autograd.grad(scalar, theta, create_graph=True)[0].sum()
        return scalar.detach()

    with pytest.raises(DerivativeOrderError, match="order 2"):
        third(an.surrogate(loss))
    _, loss = mixed(theta, 0.4)
    third(an.surrogate(loss, estimator="score"))
    # A cost that reaches the draw through a step alone leaves nothing to take off.
    with forced([0.4]), an.record():
        z = Normal(theta[0], SCALE).rsample()
        loss = torch.round(z) * z * theta[1] + (z * theta[1]).sin()
    hand = leaf()
    live = hand[0] + SCALE * 0.4
    fixed = live.detach()
    ratio = box(Normal(hand[0], SCALE).log_prob(fixed))
    expected = ratio * torch.round(fixed) * fixed * hand[1] + (live * hand[1]).sin()
    for _ in range(3):
        expected = torch.autograd.grad(expected, hand, create_graph=True)[0].sum()
    torch.testing.assert_close(third(an.surrogate(loss)), expected.detach())


@pytest.mark.parametrize("call", ["backward", "surrogate"])
def test_a_derivative_behind_a_step_that_is_no_number_is_held_back(call: str) -> None:
    theta = torch.tensor([-1.0, 0.5], dtype=torch.float64, requires_grad=True)
    with an.record():
        z = Normal(theta, 0.1).rsample()
        loss = torch.where(z > 0, z.sqrt(), 0.0).sum() + z.square().sum()
    if call == "backward":
        an.backward(loss)
    else:
        an.surrogate(loss).backward()
    assert theta.grad is not None
    assert torch.isfinite(theta.grad).all()


def test_a_baseline_is_asked_once_for_all_terms_of_a_site() -> None:
    theta = leaf()
    asked: list[tuple[str, float]] = []

    def baseline(credit: an.estimators.Credit) -> float:
        asked.append((credit.name, float(an.untrack(credit.joint))))
        return 0.7

    def recorded() -> tuple[Tensor, Tensor, Tensor]:
        with forced([0.4], [1.0]), an.record():
            z = Normal(theta[0], SCALE).rsample()
            w = Bernoulli(logits=theta[1]).sample()
            behind = w * (torch.sign(z) * z * theta[1]).exp()
            smooth = w * z.square()
            return behind + smooth, behind, smooth

    loss, behind, smooth = recorded()
    plain = gradient_of(loss, theta, baseline=None)
    theta.grad = None
    loss, *_ = recorded()
    found = gradient_of(loss, theta, baseline=baseline)
    assert dict(asked) == pytest.approx(
        {"z": an.untrack(behind).item(), "w": an.untrack(behind + smooth).item()}
    )
    assert len(asked) == 2
    hand = leaf()
    z = double(THETA[0] + SCALE * 0.4)
    scores = Normal(hand[0], SCALE).log_prob(z) + Bernoulli(logits=hand[1]).log_prob(double(1.0))
    torch.testing.assert_close(plain - found, 0.7 * torch.autograd.grad(scores, hand)[0])


@pytest.mark.parametrize("credit", ["by_element", "by_site", "total_cost"])
@pytest.mark.parametrize("baseline", ["auto", None])
def test_whatever_counts_for_a_site_it_counts_for_the_terms_that_need_the_score(
    credit: str, baseline: str | None
) -> None:
    """Two elements: by quadrature over both, the mean is that of scores alone."""
    mean, truth = torch.zeros(2).double(), torch.zeros(2).double()
    noises = [*nodes([0.0], points=12)]
    for (first, p), (second, q) in itertools.product(noises, noises):
        hand, theta = leaf(), leaf()
        noise = torch.tensor([first, second], dtype=torch.float64)
        fixed = (hand[0] + SCALE * noise).detach()
        cost = (torch.sign(fixed) * fixed.cos() * hand[1]).sum() + (fixed.square() * hand[1]).sum()
        whole = box(Normal(hand[0], SCALE).log_prob(fixed).sum()) * cost
        truth += p * q * torch.autograd.grad(whole, hand)[0]

        def rsample(self: Normal, shape: object = (), at: Tensor = noise) -> Tensor:
            return self.loc + at * self.scale

        with mock.patch.object(Normal, "rsample", rsample), an.record():
            z = Normal(theta[0].expand(2), SCALE).rsample()
            loss = (torch.sign(z) * z.cos() * theta[1]).sum() + (z.square() * theta[1]).sum()
        counting = getattr(an.estimators, credit)
        mean += p * q * gradient_of(loss, theta, credit=counting, baseline=baseline)
    torch.testing.assert_close(mean, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("first", ["smooth", "kinked"])
def test_two_surrogates_of_one_recording_are_right_together_or_refused(first: str) -> None:
    theta, hand = leaf(), leaf()
    with forced([0.4]), an.record():
        z = Normal(theta[0], SCALE).rsample()
        losses = {"smooth": z.square(), "kinked": (torch.sign(z) * z * theta[1]).exp()}
    second = "kinked" if first == "smooth" else "smooth"
    found = an.surrogate(losses[first])
    if second == "smooth":
        with pytest.raises(ValueError, match=r"'z' .* estimator='score'"):
            an.surrogate(losses[second])
        an.surrogate(losses[second], estimator="score")
        return
    found = found + an.surrogate(losses[second])
    expected = derivatives(mixed_by_hand(hand, 0.4), hand)
    torch.testing.assert_close(derivatives(found, theta), expected)


def test_a_gradient_that_is_taken_between_does_not_change_a_surrogate() -> None:
    theta, hand = leaf(), leaf()
    with forced([0.4]), an.record():
        z = Normal(theta[0], SCALE).rsample()
        smooth, kinked = z.square(), (torch.sign(z) * z * theta[1]).exp()
    found = an.surrogate(smooth)
    an.backward(kinked, retain_graph=True)
    live = hand[0] + SCALE * 0.4
    torch.testing.assert_close(derivatives(found, theta), derivatives(live.square(), hand))
