"""Growth: what a site leaves for Python's collector to walk over, and in memory, is little."""

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.provenance.algebra.pattern import forget

SITES = 2_000


def chain(count: int) -> Tensor:
    """Return the loss of a chain of coins, [], that its parameters have a gradient of."""
    weights = torch.tensor([0.3, -0.2], requires_grad=True)
    z, loss = torch.zeros(()), torch.zeros(())
    for _ in range(count):
        z = Bernoulli(logits=weights[0] + weights[1] * z).sample()
        loss = loss + ((z - 0.45) ** 2).mean()
    return loss


@pytest.fixture
def known() -> Iterator[None]:
    """Do once what is done once, and let the collector stand still: it is not what is counted."""
    with an.record():
        loss = chain(50)
    an.backward(loss)
    del loss
    forget()  # nor is what is found of an earlier recording
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tracked() -> int:
    """Return how many objects the collector walks over, those left out that it gives up itself."""
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.usefixtures("known")
def test_a_site_leaves_few_objects_to_walk_over() -> None:
    start = tracked()
    with an.record() as trace:
        loss = chain(SITES)
    recorded = tracked()
    assert recorded - start <= 27.6 * SITES
    an.backward(loss)
    assert tracked() <= recorded  # the forms of parameters make up for what it keeps
    del trace, loss
    forget()
    assert tracked() - start <= 0.01 * SITES


@pytest.mark.usefixtures("known")
def test_a_gradient_takes_few_objects_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    with an.record():
        loss = chain(SITES)
    start, most = tracked(), list[int]()
    differentiate = torch.autograd.backward

    def counted(*args: Any, **options: Any) -> None:
        most.append(tracked())
        differentiate(*args, **options)

    monkeypatch.setattr(torch.autograd, "backward", counted)
    an.backward(loss)
    assert max(most) - start <= 3 * SITES


@pytest.mark.usefixtures("known")
def test_a_site_takes_little_memory() -> None:
    with an.record() as trace:
        tracemalloc.start()
        loss = chain(SITES)
        used = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    assert len(trace) == SITES
    assert loss.ndim == 0
    assert used <= 3_800 * SITES  # of Python's objects; torch's own are not seen


@pytest.mark.usefixtures("known")
def test_a_gradient_that_fails_late_says_what_a_further_loss_of_a_long_recording_costs() -> None:
    """The forms of parameters are forgotten by then; the loss that is there has all it needs."""
    torch.manual_seed(0)
    with an.record() as trace:
        loss = chain(SITES)
    with pytest.raises(an.errors.BaselineError) as raised:
        an.backward(loss, baseline=lambda credit: torch.zeros(7))
    assert any("record anew for less variance" in note for note in raised.value.__notes__)
    logits: Any = trace[list(trace)[-1]].fn
    (weights,) = leaves_of(logits.logits)
    an.backward(loss)
    torch.manual_seed(0)
    with an.record() as again:
        loss = chain(SITES)
    logits = again[list(again)[-1]].fn
    (expected,) = leaves_of(logits.logits)
    an.backward(loss)
    assert torch.equal(weights.grad, expected.grad)


def leaves_of(tensor: Tensor) -> set[Any]:
    """Return the leaves that a tensor has a gradient of."""
    found, pending = set[Any](), [tensor.grad_fn]
    while pending:
        node: Any = pending.pop()
        found |= {node.variable} if hasattr(node, "variable") else set()
        pending += [each for each, _ in node.next_functions if each is not None]
    return found
