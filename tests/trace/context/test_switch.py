"""What is replaced in torch while a recording is open: what stays after it, what is put back."""

import concurrent.futures
import inspect
import threading
from collections.abc import Generator
from typing import Any

import pytest
import torch
import torch.distributions as d
from recorded import P, recorded
from torch import Tensor

import ancestral as an
from ancestral.trace.context.patch import Patch, own_of
from ancestral.trace.context.switch import switch

pytestmark = pytest.mark.usefixtures("restored")
LOGITS = torch.tensor([0.3, -0.2], requires_grad=True)


def _patches() -> list[Patch]:
    """Return what stays and what is put back, but for classes of users and what others replace."""
    with an.record():
        places = [(patch.owner, patch.name) for patch in switch.replaced]
        return [
            patch
            for patch in switch.replaced
            if str(getattr(patch.owner, "__module__", "torch")).partition(".")[0] in _OWNERS
            and places.count((patch.owner, patch.name)) == 1
        ]


_OWNERS = ("torch", "threading", "multiprocessing", "concurrent", "asyncio", "ancestral")
PATCHES = _patches()


def _name(patch: Patch) -> str:
    return f"{getattr(patch.owner, '__name__', patch.owner)}.{patch.name}"


def _shown(value: Any) -> tuple[Any, ...]:
    """Return what inspection says of an attribute."""
    try:
        signature: Any = inspect.signature(value)
    except (TypeError, ValueError):
        signature = None
    told = ("__name__", "__qualname__", "__module__", "__doc__")
    return signature, *(getattr(value, each, None) for each in told)


@pytest.mark.parametrize("patch", PATCHES, ids=_name)
def test_an_attribute_is_back_after_a_recording_or_when_torch_is_restored(patch: Patch) -> None:
    own, held = patch.there, getattr(patch.owner, patch.name, None)
    shown = _shown(held)
    with an.record():
        assert patch.there is not own
    if not patch.stays:
        assert patch.there is own or isinstance(patch.owner, type)
        assert getattr(patch.owner, patch.name, None) == held
        assert patch.there is own
    if patch.name != "__init_subclass__":  # nobody looks at what Python alone calls
        assert _shown(getattr(patch.owner, patch.name, None)) == shown
    an.restore_torch()
    assert patch.there is own
    with an.record():
        assert patch.there is not own  # it is replaced anew


def test_a_step_of_a_training_loop_gives_nothing_back() -> None:
    adam = torch.optim.Adam([LOGITS], lr=0.1)
    for _ in range(2):
        with an.record():
            loss = (d.Bernoulli(logits=LOGITS).sample() - 0.3).square().sum()
            waiting = [patch for patch in PATCHES if own_of(patch.there) is not patch.there]
            places = [patch.there for patch in waiting]
        adam.zero_grad()
        an.backward(loss)
        adam.step()
        assert [patch.there for patch in waiting] == places
        assert len(waiting) > 30
    assert Tensor.detach is vars(Tensor)["detach"]
    recorded()
    assert [patch.there for patch in waiting] == places


def test_who_asks_while_another_thread_opens_a_recording_is_answered_at_once() -> None:
    recorded()
    x = torch.ones(2, requires_grad=True)
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with switch.lock:
            begun.set()
            end.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    begun.wait(60)
    assert not x.detach().requires_grad
    x.data = torch.zeros(2)
    assert Tensor.detach == torch._C.TensorBase.detach is not vars(Tensor)["detach"]
    end.set()
    thread.join()
    x.detach()
    assert torch.equal(x.data, torch.zeros(2))
    assert Tensor.detach is vars(Tensor)["detach"]
    with pytest.raises(RuntimeError, match="Deleting tensor data"):
        del x.data


def test_a_class_below_two_finds_what_its_order_says() -> None:
    told: list[type] = []

    class Beside:
        def __init_subclass__(cls, **options: Any) -> None:
            told.append(cls)
            super().__init_subclass__(**options)

    recorded()

    class Mine(concurrent.futures.Executor, Beside):
        pass

    class Doubled(Tensor, Beside):
        pass

    assert told == [Mine, Doubled]


def test_only_what_draws_or_scores_stays() -> None:
    staying = {patch.name for patch in PATCHES if patch.stays}
    assert staying == {
        *("sample", "rsample", "log_prob", "__init__", "_validate_sample", "broadcast_all"),
        "__init_subclass__",
        *("cdf", "icdf", "entropy", "mode", "variance", "probs"),
    }
    owners = {getattr(p.owner, "__module__", p.owner.__name__) for p in PATCHES if p.stays}
    assert all(owner.startswith(("torch.distributions.", "ancestral.")) for owner in owners)


def test_it_is_refused_to_restore_torch_while_a_recording_is_open() -> None:
    def held() -> Generator[None]:
        with an.record():
            yield

    generator = held()
    next(generator)
    with pytest.raises(RuntimeError, match=r"an\.restore_torch\(\).*a recording is open"):
        an.restore_torch()
    failed: list[BaseException] = []

    def elsewhere() -> None:
        try:
            an.restore_torch()
        except RuntimeError as error:
            failed.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(failed) == 1
    generator.close()
    an.restore_torch()
    assert not hasattr(vars(d.Bernoulli)["sample"], "__wrapped__")


def test_torch_is_restored_twice_and_the_next_recording_replaces_again() -> None:
    own = vars(d.Bernoulli)["sample"]
    for _ in range(2):
        with an.record() as trace:
            d.Bernoulli(P).sample()
        assert len(trace) == 1
        assert vars(d.Bernoulli)["sample"] is not own
        an.restore_torch()
        an.restore_torch()
        assert vars(d.Bernoulli)["sample"] is own


def test_an_error_in_the_block_leaves_everything_as_before() -> None:
    recorded()
    places = [(patch, patch.there) for patch in PATCHES if not patch.stays]
    with pytest.raises(ZeroDivisionError), an.record(), an.record():
        raise ZeroDivisionError
    assert all(patch.there is was for patch, was in places)
    assert not switch.is_on


def test_an_error_while_a_recording_begins_leaves_everything_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded()
    places = [(patch, patch.there) for patch in PATCHES if not patch.stays]

    def fail() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(switch, "_finding", [*switch._finding, fail])
        switch.look_anew()
        with pytest.raises(KeyboardInterrupt), an.record():
            pass
    assert all(patch.there is was for patch, was in places)
    assert not switch.is_on
    recorded()
