"""Pathwise or score, term by term: each estimate is compared with the one that a person writes.

They are compared noise by noise, in first and second derivatives, so that mean and variance are
those of the hand-written estimate; the mean is integrated over the noise and compared with the
derivative of the expected loss.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
from noises import NOISES, SCALE, box, derivatives, double, forced, gradient_of, leaf, nodes
from torch import Tensor
from torch.distributions import Normal

import ancestral as an

Smooth = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """A term behind a kink, or after an escape, and the values of the draw at which it jumps."""

    term: Smooth
    jumps: Sequence[float] = (0.0,)
    is_read: bool = False


def after_item(z: Tensor, theta: Tensor) -> Tensor:
    return z.exp() * theta[1] if z.item() > 0 else z.square() * theta[1] + 1


def after_if(z: Tensor, theta: Tensor) -> Tensor:
    if z > 0:
        return torch.sin(z) * theta[1]
    return theta[1].square()


def after_index(z: Tensor, theta: Tensor) -> Tensor:
    number = int(torch.clamp(z + 1, 0, 2))
    return torch.stack([theta[1], theta[1].square(), z.sin() * theta[1]])[number]


def after_tolist(z: Tensor, theta: Tensor) -> Tensor:
    (number,) = z.reshape(1).tolist()
    return (number * z).sin() * theta[1]  # type: ignore[no-any-return]


def after_shape(z: Tensor, theta: Tensor) -> Tensor:
    above = z.reshape(1)[z.reshape(1) > 0]
    return z.exp() * theta[1] * (1.0 + above.shape[0])


def after_range(z: Tensor, theta: Tensor) -> Tensor:
    total = theta[1] * 0.5
    for _ in range(int(z > 0) + 1):
        total = (total * z).cos()
    return total


def by_index_of_sort(z: Tensor, theta: Tensor) -> Tensor:
    return torch.stack([z, double(0.0)]).sort().indices[0].double() * theta[1] * z


def by_argmax(z: Tensor, theta: Tensor) -> Tensor:
    return torch.stack([double(0.0), z]).argmax().double() * (theta[1] + z)


def by_bucket(z: Tensor, theta: Tensor) -> Tensor:
    return torch.bucketize(z, torch.tensor([-0.5, 0.5], dtype=torch.float64)).double() * theta[1]


HALVES = tuple(k + 0.5 for k in range(-9, 9))
WHOLES = tuple(float(k) for k in range(-9, 10))
STEPS: dict[str, Step] = {
    "a comparison": Step(lambda z, t: (z > 0).double() * t[1]),
    "a comparison times the draw": Step(lambda z, t: (z > 0) * z * t[1]),
    "a rounding": Step(lambda z, t: torch.round(z) * t[1], HALVES),
    "a floor": Step(lambda z, t: torch.floor(z) * z, WHOLES),
    "a sign": Step(lambda z, t: torch.sign(z) * t[1] * z.exp()),
    "a cast": Step(lambda z, t: (torch.sigmoid(z) * 2).to(torch.int64).double() * (t[1] + z)),
    "where by a comparison": Step(lambda z, t: torch.where(z > 0, z * t[1], t[1].square())),
    "masked_fill": Step(lambda z, t: (z * t[1]).masked_fill(z > 0, 2.0)),
    "a truncation": Step(lambda z, t: torch.trunc(z) * z.square() * t[0], WHOLES),
    "a remainder": Step(lambda z, t: torch.remainder(z, 1.0) * t[1], WHOLES),
    "argmax": Step(by_argmax),
    "the indices of a sort": Step(by_index_of_sort),
    "bucketize": Step(by_bucket, (-0.5, 0.5)),
    "an item": Step(after_item, is_read=True),
    "an if": Step(after_if, is_read=True),
    "an index": Step(after_index, (0.0, 1.0), is_read=True),
    "tolist": Step(after_tolist, (), is_read=True),
    "a shape": Step(after_shape, is_read=True),
    "a range": Step(after_range, is_read=True),
}
SMOOTH: dict[str, Smooth] = {
    "a square": lambda z, t: z.square() * t[1],
    "clamp at a bound": lambda z, t: z.clamp(min=0.0) * t[0],
    "relu and sine": lambda z, t: torch.relu(z) + torch.sin(z * t[1]),
    "a density": lambda z, t: Normal(t[1], 1.0).log_prob(z),
}


def by_hand(noise: float, theta: Tensor, smooth: Smooth | None, *held: Smooth) -> Tensor:
    """Return one term that sees the draw live, and others that see it fixed, with its score."""
    live = theta[0] + SCALE * noise
    fixed = live.detach()
    ratio = box(Normal(theta[0], SCALE).log_prob(fixed))
    total = sum((ratio * term(fixed, theta) for term in held), double(0.0))
    return total if smooth is None else total + smooth(live, theta)


@pytest.mark.parametrize("smooth", SMOOTH)
@pytest.mark.parametrize("name", STEPS)
def test_only_the_term_behind_a_step_is_scored(name: str, smooth: str) -> None:
    step = STEPS[name]
    for noise in NOISES:
        hand = leaf()
        expected = derivatives(by_hand(noise, hand, SMOOTH[smooth], step.term), hand)
        for call in (an.surrogate, an.backward):
            theta = leaf()
            with forced([noise]), an.record(control="after" if step.is_read else "strict"):
                z = Normal(theta[0], SCALE).rsample()
                loss = SMOOTH[smooth](z, theta)
                loss = loss + step.term(z, theta)
            if call is an.surrogate:
                found = an.surrogate(loss)
                torch.testing.assert_close(found.detach(), an.untrack(loss).detach())
                torch.testing.assert_close(derivatives(found, theta), expected)
            else:
                torch.testing.assert_close(gradient_of(loss, theta), expected[0])


@pytest.mark.parametrize("name", STEPS)
def test_the_mean_over_all_noise_is_the_derivative_of_the_expected_loss(name: str) -> None:
    step, smooth = STEPS[name], SMOOTH["a square"]
    mean, truth = torch.zeros(3, 2).double(), torch.zeros(3, 2).double()
    for noise, mass in nodes(step.jumps):
        hand, theta = leaf(), leaf()
        truth += mass * derivatives(by_hand(noise, hand, None, smooth, step.term), hand)
        with forced([noise]), an.record(control="after" if step.is_read else "strict"):
            z = Normal(theta[0], SCALE).rsample()
            loss = smooth(z, theta) + step.term(z, theta)
        mean += mass * derivatives(an.surrogate(loss), theta)
    torch.testing.assert_close(mean, truth, rtol=1e-9, atol=1e-9)
