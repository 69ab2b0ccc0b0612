"""Pathwise or score function, with integrals over the noise that are exact to rounding.

A site is normal, its noise runs over the nodes of Gauss-Legendre rules on the pieces between the
places where a step jumps, and the estimate on each node is weighed by the normal density. The true
gradient is a closed form in the normal distribution function.
"""

import itertools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Geometric,
    Multinomial,
    Normal,
    OneHotCategorical,
    Poisson,
)

import ancestral as an
from ancestral.estimators.gradient.estimator_choice import Choice

# Some of the steps are reads, which blur credit on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

LOC, SCALE = 0.3, 0.8


def phi(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def nodes(jumps: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return noises and their weights; `jumps` are the values of z at which a program jumps."""
    ends = [-10.0, *((jump - LOC) / SCALE for jump in sorted(jumps)), 10.0]
    points, weights = np.polynomial.legendre.leggauss(24 if jumps else 60)  # exact to rounding
    noise: list[float] = []
    mass: list[float] = []
    for low, high in itertools.pairwise(ends):
        half = (high - low) / 2
        for point, weight in zip(points, weights, strict=True):
            noise.append(low + half * (point + 1))
            mass.append(half * weight * phi(noise[-1]))
    return noise, mass


def normal(theta: Tensor) -> Tensor:
    z: Tensor = Normal(theta, SCALE).rsample()
    return z


def at(noise: float) -> Any:
    """Return what lets every draw of a normal be of this noise."""

    def forced(self: Normal, shape: object = ()) -> Tensor:
        return self.loc + noise * self.scale

    return mock.patch.object(Normal, "rsample", forced)


def leaf() -> Tensor:
    return torch.tensor(LOC, dtype=torch.float64, requires_grad=True)


def mean(
    program: Callable[[Tensor], Tensor], jumps: Sequence[float], choice: Choice = "auto"
) -> float:
    """Return the exact mean of the estimate of d E[loss] / d loc."""
    total = 0.0
    for noise, mass in zip(*nodes(jumps), strict=True):
        theta = leaf()
        with at(noise), an.record():
            loss = program(theta)
        an.backward(loss, estimator=choice)
        assert theta.grad is not None
        total += mass * theta.grad.item()
    return total


def upper(x: float) -> float:
    """Return the derivative by loc of P(z > x)."""
    return phi((LOC - x) / SCALE) / SCALE


def if_above(z: Tensor) -> Tensor:
    return torch.tensor(2.0, dtype=torch.float64) if z > 0 else torch.tensor(0.5).double()


def indexed(z: Tensor) -> Tensor:
    return torch.tensor([0.5, 2.0], dtype=torch.float64)[(z > 0).long()]


def in_place(z: Tensor) -> Tensor:
    return 0.5 + 1.5 * z.clone().sign_().clamp(min=0)


def through_a_draw(z: Tensor) -> Tensor:
    """The kink lies before the parameters of another site, of which the loss is the mean."""
    high, low = torch.tensor([0.8, 0.2], dtype=torch.float64)
    p = torch.where(z > 0, high, low)
    w = Bernoulli(p)
    return 2.5 * w.probs * 1.0


STEPS: dict[str, Callable[[Tensor], Tensor]] = {
    "a comparison": lambda z: 0.5 + 1.5 * (z > 0),
    "a method": lambda z: 0.5 + 1.5 * z.gt(0).double(),
    "a function": lambda z: 0.5 + 1.5 * torch.greater(z, torch.zeros(()).double()).double(),
    "where": lambda z: torch.where(z > 0, 2.0, 0.5),
    "masked_fill": lambda z: torch.full((), 0.5).double().masked_fill(z > 0, 2.0),
    "sign": lambda z: 1.25 + 0.75 * torch.sign(z),
    "sign in place": in_place,
    "a comparison in place": lambda z: 0.5 + 1.5 * z.clone().gt_(0),
    "a comparison with an out": lambda z: (
        0.5 + 1.5 * torch.gt(z, 0, out=torch.empty((), dtype=torch.float64))
    ),
    "an angle": lambda z: 1.25 + 0.75 / torch.pi * torch.atan2(z, torch.tensor(-1e12).double()),
    "a mantissa": lambda z: 3.5 - 3 * torch.frexp(2 + 1e-12 * z).mantissa,
    "a count": lambda z: 0.5 + 1.5 * z.clamp(min=0).norm(p=0),
    "a count of a difference": lambda z: (
        0.5 + 1.5 * torch.dist(z.clamp(min=0), torch.zeros(()).double(), p=0)
    ),
    "a count along a dimension": lambda z: (
        0.5 + 1.5 * torch.linalg.vector_norm(z.clamp(min=0).reshape(1, 1), 0, dim=1).sum()
    ),
    "a cut softplus": lambda z: 2 - 1.5 / math.log(2) * F.softplus(1e-12 * z, threshold=0.0),
    "the nearest place": lambda z: F.grid_sample(
        torch.tensor([[[[0.5, 2.0]]]]).double(),
        torch.stack([z.tanh(), 0 * z]).reshape(1, 1, 1, 2),
        mode="nearest",
        align_corners=False,
    ).sum(),
    "one of two": lambda z: (
        0.5 + 1.5 * F.gumbel_softmax(torch.stack([1e9 * z, 0 * z]), hard=True)[0]
    ),
    "argmax": lambda z: 0.5 + 1.5 * torch.stack([z.new_zeros(()), z]).argmax().double(),
    "an index": indexed,
    "a cast": lambda z: 0.5 + 1.5 * (torch.sigmoid(z) * 2).to(torch.int64).double(),
    "a division": lambda z: 0.5 + 1.5 * torch.div(torch.sigmoid(z), 0.5, rounding_mode="floor"),
    "bucketize": lambda z: 0.5 + 1.5 * torch.bucketize(z, torch.zeros(1).double()).double(),
    "copysign": lambda z: 1.25 + 0.75 * torch.copysign(torch.ones(()).double(), z),
    "an if": if_above,
    "an item": lambda z: torch.tensor(2.0 if z.item() > 0 else 0.5, dtype=torch.float64),
    "before a parameter": through_a_draw,
}


@pytest.mark.parametrize("name", STEPS)
def test_auto_is_unbiased_through_a_step_and_pathwise_is_not(name: str) -> None:
    def program(theta: Tensor) -> Tensor:
        z = normal(theta)
        return STEPS[name](z) + 0.3 * z

    truth = 1.5 * upper(0.0) + 0.3
    assert mean(program, [0.0]) == pytest.approx(truth, rel=1e-9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert mean(program, [0.0], "pathwise") == pytest.approx(0.3, rel=1e-9)
    assert any(issubclass(w.category, an.errors.KinkWarning) for w in caught)
    assert mean(program, [0.0], "score") == pytest.approx(truth, rel=1e-9)


def test_a_step_without_any_derivative_may_be_the_whole_loss() -> None:
    found = mean(lambda theta: normal(theta).clamp(min=0).norm(p=0), [0.0])
    assert found == pytest.approx(upper(0.0), rel=1e-9)


def test_a_row_that_is_scaled_has_another_derivative_than_autograds() -> None:
    def program(theta: Tensor) -> Tensor:
        table = normal(theta).reshape(1, 1).clone()
        return F.embedding(torch.tensor([0]), table, max_norm=1.0).sum()

    ends = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    low, high = Normal(LOC, SCALE).cdf(ends)
    assert mean(program, ends.tolist()) == pytest.approx(float(high - low), rel=1e-6)


def test_rounding_jumps_at_every_half() -> None:
    halves = [k + 0.5 for k in range(-9, 9)]
    truth = sum(upper(h) for h in halves)
    assert mean(lambda theta: torch.round(normal(theta)), halves) == pytest.approx(truth, rel=1e-9)


def test_a_smooth_cost_stays_pathwise() -> None:
    theta = leaf()
    with an.record():
        z = normal(theta)
        loss = z.square() + torch.relu(z)
    an.backward(loss)
    assert theta.grad is not None
    slope = 2 * z.item() + (1.0 if z.item() > 0 else 0.0)
    assert theta.grad.item() == pytest.approx(slope, rel=1e-12)


def test_a_kink_that_no_cost_sees_changes_nothing() -> None:
    theta = leaf()
    with an.record():
        z = normal(theta)
        accuracy = (z > 0).double()  # a metric
        loss = z.square()
    an.backward(loss)
    assert theta.grad is not None
    assert theta.grad.item() == pytest.approx(2 * z.item(), rel=1e-12)
    assert an.provenance_of(accuracy) == {"z"}


def test_only_the_site_before_the_kink_changes() -> None:
    """A site upstream stays pathwise: its gradient goes through the other's parameters."""

    def program(theta: Tensor) -> Tensor:
        first = Normal(theta, 0.0 + SCALE).rsample()
        second = Normal(first, SCALE).rsample()  # the same noise, forced
        return (second > 0).double() + 0.0 * first

    theta = leaf()
    with an.record() as trace:
        loss = program(theta)
    an.backward(loss)
    gates = [node.gate for node in trace.values()]
    assert [gate is not None and gate.is_shut for gate in gates] == [False, True]


DRAWN: dict[str, Callable[[Tensor], Distribution]] = {
    "bernoulli": lambda z: Bernoulli(logits=z),
    "binomial": lambda z: Binomial(3, logits=z),
    "categorical": lambda z: Categorical(logits=z),
    "geometric": lambda z: Geometric(logits=z),
    "multinomial": lambda z: Multinomial(3, logits=z),
    "one-hot": lambda z: OneHotCategorical(logits=z),
    "poisson": lambda z: Poisson(z.exp()),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", DRAWN)
def test_a_draw_of_whole_numbers_is_no_kink_of_its_parameters(family: str) -> None:
    """Its score has their derivative: what a normal feeds to it stays pathwise."""

    def draws(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = Normal(theta, SCALE).rsample((4, 3))
        q = DRAWN[family](z)
        drawn = q.sample()
        return z, drawn, q.log_prob(drawn)

    theta, same = leaf(), leaf()
    torch.manual_seed(0)
    with an.record():
        z, drawn, _ = draws(theta)
        loss = z.square().sum() + (drawn.double() ** 2).sum()
    an.backward(loss, baseline=None, estimator={"z": "pathwise", "drawn": "auto"})

    torch.manual_seed(0)
    z, drawn, log_q = draws(same)
    cost = drawn.double().square().reshape(*log_q.shape, -1).sum(-1)
    (z.square().sum() + (log_q * cost).sum()).backward()
    assert theta.grad is not None
    assert same.grad is not None
    torch.testing.assert_close(theta.grad, same.grad)


@pytest.mark.parametrize("setting", ["declared", "after"])
def test_what_a_decision_rests_on_is_scored_on_every_path(setting: str) -> None:
    """A discrete child of z decides whether a kink is met; a cost was finished before.

    Were z scored on one path and pathwise on the other, the finished cost would be biased.
    """

    def program(theta: Tensor) -> Tensor | None:
        z = normal(theta)
        w = Bernoulli(torch.sigmoid(z)).sample()
        finished = z.square()
        if setting == "declared":
            an.cost("finished", finished)
        extra = torch.round(z) * 0.0 if w > 0 else z * 0.0
        if setting == "declared":
            an.cost("extra", extra)
            return None
        return finished + extra

    truth, total = 2 * LOC, 0.0
    for outcome in (0.0, 1.0):

        def drawn(self: Bernoulli, shape: object = (), at: float = outcome) -> Tensor:
            return torch.full((), at, dtype=torch.float64)

        for noise, mass in zip(*nodes([]), strict=True):
            theta = leaf()

            control = "strict" if setting == "declared" else "after"
            with (
                at(noise),
                mock.patch.object(Bernoulli, "sample", drawn),
                an.record(control=control) as trace,
            ):
                loss = program(theta)
            if loss is None:
                trace.backward()
            else:
                an.backward(loss)
            assert theta.grad is not None
            z = LOC + SCALE * noise
            p = 1 / (1 + math.exp(-z))
            total += mass * (p if outcome else 1 - p) * theta.grad.item()
    assert total == pytest.approx(truth, rel=1e-7)


def test_second_derivatives_use_the_score_too() -> None:
    """Of the surrogate: E = P(z > 0), whose second derivative by loc is -x phi(x) / scale^2."""
    total = 0.0
    for noise, mass in zip(*nodes([0.0]), strict=True):
        theta = leaf()

        with at(noise), an.record():
            loss = (normal(theta) > 0).double()
        (slope,) = torch.autograd.grad(an.surrogate(loss), theta, create_graph=True)
        (bend,) = torch.autograd.grad(slope, theta)
        total += mass * bend.item()
    x = LOC / SCALE
    assert total == pytest.approx(-x * phi(x) / SCALE**2, rel=1e-9)


def test_a_plain_backward_through_a_kink_warns() -> None:
    theta = leaf()
    with an.record():
        z = normal(theta)
        loss = (z > 0).double() + z
    with pytest.warns(UserWarning, match=r"leaves out the score function of 'z'"):
        loss.backward()
