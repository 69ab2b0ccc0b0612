"""The gradient of a recording is taken once, or retained; afterwards its values are constants."""

from collections.abc import Callable, Sequence

import pytest
import torch
from programs.estimates import fresh, gradients
from torch import Tensor
from torch.distributions import Bernoulli, Normal
from two_coins import drawn, leaves, score

import ancestral as an
from ancestral.trace.recording.leaf_writes import SettledError
from oracles import Program, mean_and_truth


@pytest.fixture
def logits() -> Tensor:
    """Logits with a gradient to learn."""
    return leaves()[0]


def test_a_value_of_a_recording_whose_gradient_was_taken_is_a_constant(logits: Tensor) -> None:
    with an.record():
        first = drawn(logits)
        before = (first * 2).sum()
    an.backward(before)
    logits.grad = None
    with an.record() as trace:
        second = drawn(logits)
        loss = (first * second).sum()
    assert an.provenance_of(loss) == {"z"}
    an.backward(loss, baseline=None)
    expected = score(logits, trace["z"].value, (an.untrack(first) * trace["z"].value).detach())
    torch.testing.assert_close(logits.grad, expected)


def test_a_value_that_is_cut_from_another_recording_is_a_constant(logits: Tensor) -> None:
    with an.record():
        first = an.untrack(drawn(logits))
    with an.record() as trace:
        loss = (first * drawn(logits)).sum()
    an.backward(loss, baseline=None)
    expected = score(logits, trace["z"].value, first * trace["z"].value)
    torch.testing.assert_close(logits.grad, expected)


def test_the_gradient_of_a_recording_is_taken_once(logits: Tensor) -> None:
    with an.record():
        loss = drawn(logits).sum()
    an.backward(loss)
    for again in (an.backward, an.surrogate):
        with pytest.raises(SettledError, match="pass retain_graph=True to the first backward"):
            again(loss)


AGAIN: dict[str, Callable[[Tensor, an.Trace], object]] = {
    "already taken.*open a recording for each step": lambda x, trace: an.backward(x.sum()),
    "already taken.*open a recording for each": lambda x, trace: trace.backward(),
    r"site 'z_1' \(.*\) is drawn in a recording": lambda x, trace: drawn(x),
    r"site 'w' \(.*\) is drawn in a recording": lambda x, trace: an.sample("w", Bernoulli(x)),
    r"site '.*' \(.*\) is drawn in a recording": lambda x, trace: torch.bernoulli(x.sigmoid()),
}


@pytest.mark.parametrize("text", AGAIN)
def test_a_recording_whose_gradient_was_taken_says_so_within_its_block(
    text: str, logits: Tensor
) -> None:
    with an.record() as trace:
        an.backward(an.cost("first", drawn(logits)).sum())
        with pytest.raises(SettledError, match=text):
            AGAIN[text](logits.sigmoid(), trace)
        with torch.no_grad():
            drawn(logits)
        drawn(logits.detach())
        assert Normal(logits, 1.0).rsample().requires_grad


def test_a_loop_within_one_recording_retains_it_for_each_step(logits: Tensor) -> None:
    def losses(theta: Tensor) -> list[Tensor]:
        first = drawn(theta)
        second = drawn(theta * (first + 0.5))
        return [((first - 0.3) ** 2).sum(), (second * first).sum()]

    def estimate(_: Program, parameters: Sequence[Tensor]) -> Tensor:
        leaves = fresh(parameters)
        with an.record():
            for loss in losses(*leaves):
                an.backward(loss, retain_graph=True)
        return gradients(leaves)

    def program(theta: Tensor) -> Tensor:
        return torch.stack(losses(theta)).sum()

    torch.testing.assert_close(*mean_and_truth(program, [logits], estimate))


def test_a_retained_graph_gives_the_same_gradient_again(logits: Tensor) -> None:
    torch.manual_seed(1)  # one of the coins falls on 1
    with an.record():
        loss = (drawn(logits) * logits.exp()).sum()
    an.backward(loss, retain_graph=True)
    assert logits.grad is not None
    once = logits.grad.clone()
    an.backward(loss)
    assert once.abs().max() > 0
    assert logits.grad.equal(2 * once)
    with pytest.raises(SettledError):
        an.backward(loss)


def test_a_running_average_of_detached_losses_is_carried_over_the_steps(logits: Tensor) -> None:
    average: Tensor | float = 0.0
    for _ in range(4):
        logits.grad = None
        before = float(an.untrack(torch.as_tensor(average)))
        with an.record() as trace:
            z = drawn(logits)
            loss = ((z - 0.45) ** 2).sum()
            centred = loss - average
        an.backward(centred, baseline=None)
        expected = score(logits, trace["z"].value, (trace["z"].value - 0.45) ** 2)
        torch.testing.assert_close(logits.grad, expected)
        average = 0.9 * average + 0.1 * loss.detach()
        value = float(an.untrack(average))
        assert value == pytest.approx(0.9 * before + 0.1 * float(an.untrack(loss)))


def test_a_running_average_scales_a_later_loss(logits: Tensor) -> None:
    average: Tensor = torch.ones((), dtype=torch.float64)
    for _ in range(3):
        logits.grad = None
        factor = an.untrack(average)
        with an.record() as trace:
            z = drawn(logits)
            loss = (z * 2 / average).sum()
        an.backward(loss, baseline=None)
        value = trace["z"].value
        torch.testing.assert_close(logits.grad, score(logits, value, value * 2 / factor))
        average = 0.9 * average + 0.1 * z.detach().sum()
