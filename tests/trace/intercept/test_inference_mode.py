"""Draws under inference mode: they count as under no_grad, or the use that cannot is named."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Gamma, Normal

import ancestral as an
from ancestral.provenance.dispatch.error_leaks import InferenceTensorError

# The programs branch by what is drawn, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

Mode = Callable[[], Any]


def coin(b: Tensor) -> Tensor:
    return Bernoulli(logits=b).sample()  # type: ignore[no-any-return]


USED: dict[str, Callable[[Tensor, Mode], Tensor]] = {
    "a draw": lambda b, mode: within(mode, lambda: coin(b)) * b,
    "a named site": lambda b, mode: within(mode, lambda: an.sample("s", Bernoulli(logits=b))) * b,
    "torch.bernoulli": lambda b, mode: within(mode, lambda: torch.bernoulli(b)) * b,
    "torch.multinomial": lambda b, mode: (within(mode, lambda: torch.multinomial(b, 1)) + 1.0) * b,
    "a scale": lambda b, mode: within(mode, lambda: Normal(0.0, b).sample()) * 2 + b,
    "a parameter of the mode": lambda b, mode: (
        within(mode, lambda: Normal(b, torch.ones(2) * 1.5).sample()) * 2 + b
    ),
    "a step": lambda b, mode: (within(mode, lambda: Normal(b, 1.0).rsample()) > 0.5) * b,
    "a sum": lambda b, mode: within(mode, lambda: coin(b) + 1) + 0 * b,
    "a cost": lambda b, mode: within(mode, lambda: Normal(b, 1.0).sample() ** 2) + b,
    "a whole program": lambda b, mode: within(mode, lambda: (coin(b) * 3).sum()),
    "an index": lambda b, mode: b[within(mode, lambda: coin(b)).long()],
    "a branch": lambda b, mode: b * 2 if within(mode, lambda: coin(b))[0] > 0 else b**2,
    "a clone": lambda b, mode: within(mode, lambda: coin(b) + 1).clone() * b,
}


def within(mode: Mode, program: Callable[[], Tensor]) -> Tensor:
    with mode():
        return program()


def gradient(name: str, mode: Mode) -> Tensor:
    b = torch.tensor([0.7, 0.9], requires_grad=True)
    torch.manual_seed(1)
    with an.record():
        loss = USED[name](b, mode).sum()
    an.backward(loss)
    assert b.grad is not None
    return b.grad


@pytest.mark.parametrize("name", USED)
def test_a_draw_of_inference_mode_counts_as_one_of_no_grad(name: str) -> None:
    expected = gradient(name, torch.no_grad)
    assert bool(expected.any())
    torch.testing.assert_close(gradient(name, torch.inference_mode), expected)


SAVED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "an operator": lambda y, b: y * b,
    "the other way round": lambda y, b: b * y,
    "a function": lambda y, b: torch.nn.functional.binary_cross_entropy_with_logits(b, y),
    "a product": lambda y, b: y @ b,
    "an index": lambda y, b: b[y.long() * 0 + y.long().clone().mul_(0)] * y,
    "a write": lambda y, b: y.add_(b),
}


@pytest.mark.parametrize("name", SAVED)
def test_a_use_that_autograd_cannot_save_names_the_site_and_the_line(name: str) -> None:
    b = torch.tensor([0.7, 0.9], requires_grad=True)
    with an.record():
        with torch.inference_mode():
            y = coin(b) + 1
        with pytest.raises(
            InferenceTensorError,
            match=r"test_inference_mode.py:\d+: a value that depends on 'bernoulli' .*no_grad",
        ):
            SAVED[name](y, b)


def test_a_density_with_parameters_of_inference_mode_names_the_site() -> None:
    b = torch.tensor([0.7, 0.9], requires_grad=True)
    with an.record() as trace:
        with torch.inference_mode():
            z = Gamma(b, torch.tensor([0.5, 2.0]) * 1.5).sample()
        loss = (z * 2).sum()
    with pytest.raises(InferenceTensorError, match=r"test_inference_mode.py:\d+: .*'z'"):
        an.backward(loss)
    assert trace["z"].is_learned


def test_a_recording_within_inference_mode_has_densities() -> None:
    b = torch.tensor([0.7, 0.9], requires_grad=True)
    with torch.inference_mode(), an.record() as trace:
        y = Bernoulli(logits=b).sample()
        loss = (y * 2).sum()
    torch.testing.assert_close(trace["y"].log_prob, Bernoulli(logits=b).log_prob(an.untrack(y)))
    an.backward(loss, credit=an.estimators.total_cost)
    by_hand = torch.autograd.grad(Bernoulli(logits=b).log_prob(an.untrack(y)).sum(), b)[0]
    torch.testing.assert_close(b.grad, by_hand * an.untrack(loss).clone())
