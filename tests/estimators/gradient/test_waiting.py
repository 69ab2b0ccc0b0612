"""Waiting for a device that runs ahead of Python: once a step, after the backward pass.

No such device has to be there: `cpu` is taken for one.
"""

# torch.distributions has no annotations.
# mypy: disable-error-code="no-any-return"

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli
from torch.utils._python_dispatch import TorchDispatchMode

import ancestral as an
from ancestral.estimators.gradient import decompose, loss_terms
from ancestral.tools.bench.steps import MODELS
from ancestral.trace.recording import leaf_writes

WAITING = frozenset(
    "_local_scalar_dense _unique2 equal is_nonzero masked_select nonzero unique_dim".split()
)
"""The ops that give Python a number, or need one to know the shape of their result."""


@pytest.fixture(name="is_ahead")
def fixture_is_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take all devices for such that run ahead; distributions check no values, for they read."""
    for module in (decompose, leaf_writes, loss_terms):
        monkeypatch.setattr(module, "runs_ahead", lambda tensor: True)


class Noting(TorchDispatchMode):
    """Notes the ops for which Python waits, and the backward passes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING:
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def noting(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note them while a step runs."""
    original = torch.autograd.backward
    with Noting() as mode:

        def backward(*args: Any, **options: Any) -> None:
            original(*args, **options)
            mode.seen.append("backward")

        with monkeypatch.context() as patch:
            patch.setattr(torch.autograd, "backward", backward)
            yield mode.seen


LOGITS = torch.tensor([0.3, -0.4, 0.9], requires_grad=True)


PICKED = torch.tensor([True, False, True])


def weighed(weight: Tensor) -> Tensor:
    """Return a loss with a weight for each element, and a constant for each."""
    z = Bernoulli(logits=LOGITS, validate_args=False).sample()
    return ((z - 0.3).square() * weight).sum() + (weight * 2.0).sum() + 0.7


def picked(power: float) -> Tensor:
    """Return a loss that leaves an element of its cost out, whatever it is."""
    cost = Bernoulli(logits=LOGITS, validate_args=False).sample().add(1.5).square()
    return cost.pow(torch.tensor([1.0, power, 1.0])).where(PICKED, 0.0).sum()


def step_of(loss: Tensor, **options: Any) -> list[Tensor]:
    """Return the gradient of a step that begins with this loss."""
    LOGITS.grad = None
    an.backward(loss, **options)
    assert LOGITS.grad is not None
    return [LOGITS.grad.clone()]


LOSSES: dict[str, Callable[[], Tensor]] = {
    "weights": lambda: weighed(torch.tensor([1.0, 2.0, 0.0])),
    "a cost that is left out": lambda: picked(2.0),
    "an infinite cost that is left out": lambda: picked(1e9),
    "a mean": lambda: weighed(torch.ones(3)) / 3,
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("options", [{}, {"baseline": None}, {"gradient": torch.tensor(2.0)}])
def test_a_step_has_the_gradient_of_one_that_waits(
    name: str, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    found = []
    for is_ahead in (False, True):
        if is_ahead:
            request.getfixturevalue("is_ahead")
        torch.manual_seed(0)
        with an.record():
            loss = LOSSES[name]()
        found.append(step_of(loss, **options))
    torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize(
    "words", [words for words in MODELS if "64" not in words or "chain" in words]
)
@pytest.mark.usefixtures("is_ahead")
def test_a_step_waits_for_nothing_before_its_backward_pass(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    model = MODELS[words][0]()
    model.ours()
    with noting(monkeypatch) as seen:
        with an.record():
            loss = model.loss(model.x)
        an.backward(loss)
    assert seen.index("backward") == 0
    assert len(seen) > 1  # the checks


def infinite() -> Tensor:
    """Return a loss that is infinite, if only a draw is one."""
    z = Bernoulli(logits=LOGITS + 20, validate_args=False).sample()
    return (z / (1 - z)).sum()


def overwritten() -> Tensor:
    """Return a loss whose cost was written into by a way that torch does not count."""
    cost = (Bernoulli(logits=LOGITS, validate_args=False).sample() - 0.3).square()
    loss = cost.sum()
    an.untrack(cost).data.fill_(4.0)
    return loss


@pytest.mark.parametrize(
    ("loss", "error"),
    [(infinite, an.errors.NonFiniteCostError), (overwritten, an.errors.LossMismatchError)],
)
@pytest.mark.usefixtures("is_ahead")
def test_what_is_wrong_is_said_after_the_backward_pass(
    loss: Callable[[], Tensor], error: type[Exception]
) -> None:
    torch.manual_seed(0)
    with an.record() as trace:
        found = loss()
    with pytest.raises(error) as raised:
        an.backward(found)
    assert any("zero it before" in note for note in raised.value.__notes__)
    assert trace.universe.state != "settled"
    with pytest.raises(error) as raised:  # where it can be said before, it is
        an.surrogate(found)
    assert not hasattr(raised.value, "__notes__")


@pytest.mark.usefixtures("is_ahead")
def test_declared_costs_and_leaves_are_looked_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    with noting(monkeypatch) as seen:
        with an.record() as trace:
            an.cost("cost", weighed(torch.tensor([1.0, 2.0, 0.0])))
        trace.backward()
    assert seen.index("backward") == 0
    with an.record() as trace:
        an.cost("cost", infinite())
    with pytest.raises(an.errors.NonFiniteCostError) as raised:
        trace.backward()
    assert "cost 'cost'" in "".join(raised.value.__notes__)
    with an.record():
        loss = weighed(torch.ones(3))
    with torch.no_grad():
        LOGITS.data.add_(0.0).mul_(1.0).numpy()[0] += 1
    with pytest.raises(an.errors.ModifiedParameterError):
        an.backward(loss)
    LOGITS.data[0] -= 1
