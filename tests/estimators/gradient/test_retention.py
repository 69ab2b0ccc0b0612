"""What lives on of recordings whose gradient nobody has asked for."""

import gc
from collections.abc import Callable
from weakref import ref

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.trace.context.stack import MOST_KEPT

# One of the programs reads its loss within the block.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")


def _reparameterized(weight: Tensor) -> Tensor:
    return (Normal(weight, 1.0).rsample() ** 2).sum()


def _chain(weight: Tensor) -> Tensor:
    z = weight
    for _ in range(3):
        z = Bernoulli(logits=z * weight).sample()
    return (z * weight).sum()


def _program(weight: Tensor) -> Tensor:
    z = an.sample("z", Normal(weight, 1.0))
    an.cost("c", z**2)
    return an.sample("x", Normal(z * weight, 1.0), obs=torch.zeros(3)).sum()


def _escaping(weight: Tensor) -> Tensor:
    loss = (Normal(weight, 1.0).rsample() ** 2).sum()
    loss.item()
    return loss


BODIES = [_reparameterized, _chain, _escaping, _program]


def _weight() -> Tensor:
    return torch.tensor([0.3, -0.2, 0.5], requires_grad=True)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("also", [lambda loss: None, an.surrogate, an.backward])
def test_an_evaluation_that_asks_for_no_gradient_keeps_few_recordings(
    body: Callable[[Tensor], Tensor], also: Callable[[Tensor], object]
) -> None:
    weight = _weight()
    traces: list[ref[an.Trace]] = []
    nodes: list[ref[an.Node]] = []
    for _ in range(5 * MOST_KEPT):
        with an.record() as trace:
            loss = body(weight)
        if body is not _program:
            also(loss)
        traces.append(ref(trace))
        nodes.extend(ref(node) for node in trace.values())
        each = len(trace)
    del trace, loss
    gc.collect()
    assert sum(trace() is not None for trace in traces) <= MOST_KEPT
    assert sum(node() is not None for node in nodes) <= MOST_KEPT * each


@pytest.mark.parametrize("body", BODIES[:3])
def test_a_loss_that_is_kept_alone_can_be_asked_later(body: Callable[[Tensor], Tensor]) -> None:
    def gradients(is_at_once: bool) -> list[Tensor]:
        torch.manual_seed(3)
        weights, losses = [_weight() for _ in range(MOST_KEPT)], []
        for weight in weights:
            with an.record():
                losses.append(body(weight))
            if is_at_once:
                an.backward(losses[-1])
        gc.collect()
        if not is_at_once:
            for loss in losses:
                an.backward(loss)
        return [weight.grad for weight in weights if weight.grad is not None]

    at_once, later = gradients(True), gradients(False)
    assert len(at_once) == MOST_KEPT
    assert all(torch.equal(a, b) for a, b in zip(at_once, later, strict=True))


def _forgotten(weight: Tensor) -> Tensor:
    with an.record():
        forgotten = _chain(weight)
    losses = []
    for _ in range(MOST_KEPT):
        with an.record():
            losses.append(_reparameterized(weight))
    gc.collect()
    assert all(an.provenance_of(loss) for loss in losses)
    return forgotten


def test_recordings_whose_gradient_was_taken_push_no_other_out() -> None:
    weight = _weight()
    with an.record():
        loss = _chain(weight)
    for _ in range(3 * MOST_KEPT):
        with an.record():
            other = _chain(weight)
        an.backward(other)
    gc.collect()
    an.backward(loss)


def test_the_trace_that_is_held_lives_on() -> None:
    weight = _weight()
    with an.record() as trace:
        loss = _chain(weight)
    _forgotten(weight)
    assert len(trace) == 3
    an.backward(loss)
    assert weight.grad is not None


def test_a_forgotten_recording_is_an_error_that_says_what_to_hold() -> None:
    loss = _forgotten(_weight())
    for ask in (an.backward, an.surrogate):
        with pytest.raises(
            an.errors.ForgottenRecordingError, match=r"'z'.*with an.record\(\) as trace"
        ):
            ask(loss)


def test_a_loss_of_a_later_recording_does_not_lose_the_scores_of_a_forgotten_one() -> None:
    weight = _weight()
    older = _forgotten(weight)
    with an.record() as trace:
        loss = (Bernoulli(logits=weight).sample() * older).sum()
    with pytest.raises(an.errors.ForgottenRecordingError):
        an.backward(loss)
    assert len(trace) == 1
    assert weight.grad is None


def test_the_plain_gradient_of_a_forgotten_recording_warns() -> None:
    loss = _forgotten(_weight())
    with pytest.warns(UserWarning, match="leaves out the score function of 'z"):
        loss.backward()


def _guided(weight: Tensor) -> None:
    def model() -> None:
        z = an.sample("z", Normal(torch.zeros(3), 1.0))
        an.deterministic("d", z * 2)
        an.sample("x", Normal(z, 1.0), obs=torch.zeros(3))

    an.infer.elbo(model, lambda: an.sample("z", Normal(weight, 1.0))).surrogate.backward()


def _differentiated(weight: Tensor) -> None:
    with an.record():
        loss = _reparameterized(weight)
    an.backward(loss)


@pytest.mark.parametrize("step", [_guided, _differentiated])
def test_no_site_outlives_a_step_of_training(step: Callable[[Tensor], None]) -> None:
    def alive() -> int:
        gc.collect()
        return sum(type(each) is an.Node for each in gc.get_objects())

    weight = _weight()
    step(weight)
    before = alive()
    for _ in range(5 * MOST_KEPT):
        step(weight)
    assert alive() <= before
