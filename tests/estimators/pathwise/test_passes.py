"""Passes of autograd: as many as terms disagree, not as many as there are terms."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple
from unittest import mock

import pytest
import torch
from noises import SCALE, box, derivatives, double, forced, gradient_of, leaf
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an

# The programs read what they draw, and decide by some of it.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

# --- how many ------------------------------------------------------------------------------------


def read_after_its_term(x: Tensor, before: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    cost = (x - 1).square() * theta[1]
    x.item()
    return cost, x


def terms_of_two_draws(x: Tensor, before: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    cost = (x * before + theta[0]).sin()
    x.item()
    return cost, x


def branch(x: Tensor, before: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    return x.sin() * theta[1], x if x > 0 else 0.5 * x


def kink(x: Tensor, before: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    return (torch.sign(x) * x * theta[1]).exp() + x.cos(), x


def step_in_the_mean(x: Tensor, before: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    return (x * theta[1]).sin(), torch.round(x) + x


Step = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def chain(step: Step, length: int) -> tuple[Tensor, Tensor]:
    theta, state, loss = leaf(), double(0.0), double(0.0)
    with an.record(control="after"):
        for _ in range(length):
            x = Normal(torch.tanh(state * theta[0]) + theta[1], SCALE).rsample()
            cost, state = step(x, state, theta)
            loss = loss + cost
    return loss, theta


def passes_in(call: Callable[[], object]) -> int:
    """Return how often autograd is asked for a gradient."""
    with (
        mock.patch.object(torch.autograd, "grad", wraps=torch.autograd.grad) as some,
        mock.patch.object(torch.autograd, "backward", wraps=torch.autograd.backward) as whole,
    ):
        call()
    return some.call_count + whole.call_count


@pytest.mark.parametrize(
    "step", [read_after_its_term, terms_of_two_draws, branch, kink, step_in_the_mean]
)
def test_a_chain_takes_as_many_passes_however_long_it_is(step: Step) -> None:
    loss, _ = chain(step, 40)
    assert passes_in(lambda: an.backward(loss)) <= 4
    loss, _ = chain(step, 20)
    assert passes_in(lambda: an.surrogate(loss)) <= 10


# --- what they add up to --------------------------------------------------------------------------


class Line(NamedTuple):
    """One line of a program: a draw, a value, a cost or a read, of values before it.

    `is_stepped` says of which of these the sign is taken.
    """

    kind: str
    values: tuple[int, ...]
    is_stepped: tuple[bool, ...]
    form: int


def program_of(seed: int) -> list[Line]:
    """Return a random program, whose first line draws a normal, and whose last two are costs."""
    chance, lines, size = random.Random(seed), [Line("normal", (), (), 0)], 1
    kinds = "normal normal normal coin cost cost state".split() + ["read"] * (seed % 2)
    for kind in [*chance.choices(kinds, k=chance.randint(3, 9)), "cost", "cost"]:
        some = 1 if kind in ("read", "state") else chance.randint(kind == "cost", 3)
        values = tuple(chance.randrange(size) for _ in range(some))
        is_stepped = tuple(chance.random() < 0.25 for _ in values)
        lines.append(Line(kind, values, is_stepped, chance.randrange(3)))
        size += kind not in ("cost", "read")
    return lines


def parameter(line: Line, values: Sequence[Tensor], theta: Tensor) -> Tensor:
    total = theta[line.form % 2] * 0.7
    for at, is_stepped in zip(line.values, line.is_stepped, strict=True):
        x = torch.sign(values[at]) * 0.8 if is_stepped else values[at]
        if line.form == 0:
            total = total + torch.sin(x * theta[1] + 0.2)
        elif line.form == 1:
            total = torch.tanh(total * x) + 0.3 * theta[0]
        else:
            total = total + (x * 0.5).cos() * torch.tanh(x) * theta[1]
    return total


def cost_of(line: Line, values: Sequence[Tensor], theta: Tensor) -> Tensor:
    total = theta[line.form % 2].exp() * 0.7 if line.form else double(0.4)
    for at, is_stepped in zip(line.values, line.is_stepped, strict=True):
        x = values[at]
        if is_stepped:  # with the draw itself, or the step alone
            x = torch.sign(x) + (0.3 * x if line.form != 2 else 0)
        total = total * x + x.cos()
    return (total * 0.7).sin()


def recorded(
    lines: Sequence[Line], noises: Sequence[float], coins: Sequence[float], theta: Tensor
) -> Tensor:
    values: list[Tensor] = []
    costs: list[Tensor] = []
    with forced(noises, coins), an.record(control="after"):
        for line in lines:
            if line.kind == "normal":
                values.append(Normal(parameter(line, values, theta), SCALE).rsample())
            elif line.kind == "coin":
                values.append(Bernoulli(logits=parameter(line, values, theta)).sample())
            elif line.kind == "state":
                values.append(torch.tanh(parameter(line, values, theta)))
            elif line.kind == "read":
                values[line.values[0]].item()
            else:
                costs.append(cost_of(line, values, theta))
        return sum(costs[1:], costs[0])


class Reach(NamedTuple):
    """The draws that a value depends on, those it is behind a step of, and those it is made of."""

    upstream: frozenset[int] = frozenset()
    stepped: frozenset[int] = frozenset()
    origins: frozenset[int] = frozenset()


def reaches(lines: Sequence[Line]) -> list[tuple[frozenset[int], frozenset[int]]]:
    """Return the draws that each cost depends on, and those that are scored for it."""
    values: list[Reach] = []
    costs: list[tuple[frozenset[int], frozenset[int]]] = []
    control, drawn = Reach(), 0
    for line in lines:
        given = [values[at] for at in line.values]
        if line.kind == "read":
            control = Reach(
                control.upstream | given[0].upstream,
                control.stepped | given[0].stepped | given[0].origins,
            )
            continue
        kinks = zip(given, line.is_stepped, strict=True)
        upstream = control.upstream.union(*(each.upstream for each in given))
        stepped = control.stepped.union(
            *(each.stepped for each in given), *(each.origins for each, is_in in kinks if is_in)
        )
        origins = frozenset[int]().union(*(each.origins for each in given))
        if line.kind == "cost":
            costs.append((upstream, stepped))
            continue
        if line.kind in ("normal", "coin"):
            upstream, origins, drawn = upstream | {drawn}, frozenset({drawn}), drawn + 1
        values.append(Reach(upstream, stepped, origins))
    return costs


def by_hand(
    lines: Sequence[Line], noises: Sequence[float], coins: Sequence[float], theta: Tensor
) -> Tensor:
    """Return the sum of the costs, each by itself: the program runs once for each."""
    total = double(0.0)
    for number, (upstream, stepped) in enumerate(reaches(lines)):
        values: list[Tensor] = []
        costs: list[Tensor] = []
        density, drawn = double(0.0), 0
        left, faces = list(noises), list(coins)
        for line in lines:
            if line.kind == "cost":
                costs.append(cost_of(line, values, theta))
            elif line.kind == "state":
                values.append(torch.tanh(parameter(line, values, theta)))
            elif line.kind == "normal":
                mean = parameter(line, values, theta)
                value = mean + left.pop(0) * SCALE
                if drawn in stepped:
                    value = value.detach()
                    density = density + Normal(mean, SCALE).log_prob(value)
                values.append(value)
                drawn += 1
            elif line.kind == "coin":
                value = double(faces.pop(0))
                if drawn in upstream:
                    logits = parameter(line, values, theta)
                    density = density + Bernoulli(logits=logits).log_prob(value)
                values.append(value)
                drawn += 1
        total = total + box(density) * costs[number]
    return total


@pytest.mark.parametrize("block", range(4))
def test_in_random_programs_each_term_holds_fixed_what_is_scored_for_it(block: int) -> None:
    for seed in range(block * 40, block * 40 + 40):
        lines, chance = program_of(seed), random.Random(seed)
        noises = [chance.uniform(-1.5, 1.5) for _ in lines]
        coins = [float(chance.random() < 0.5) for _ in lines]
        hand, theta = leaf(), leaf()
        expected = derivatives(by_hand(lines, noises, coins, hand), hand)
        loss = recorded(lines, noises, coins, theta)
        found = derivatives(an.surrogate(loss, baseline=None), theta)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7, msg=f"program {seed}")
        loss = recorded(lines, noises, coins, theta)
        slope = gradient_of(loss, theta, baseline=None)
        torch.testing.assert_close(slope, expected[0], rtol=1e-7, atol=1e-7, msg=f"program {seed}")
