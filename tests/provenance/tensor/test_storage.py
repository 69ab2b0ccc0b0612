"""Writes through other views: all that shares the storage carries the source, and no more."""

import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli
from torch.overrides import TorchFunctionMode

import ancestral as an
from ancestral.provenance.dispatch import inplace, torch_function
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.tensor import provenance_of, track


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield  # what one test wrote into may be alive in the next
    storage.table.clear()
    storage.unwatch()


def _views(b: Tensor) -> dict[str, Tensor]:
    return {
        "row": b[0],
        "column": b[:, 1],
        "flat": b.view(-1),
        "detached": b.detach(),
        "transposed": b.T,
    }


WRITES: dict[str, Callable[[Tensor, dict[str, Tensor], Tensor], object]] = {
    "into the base": lambda b, v, z: b.add_(z),
    "by item": lambda b, v, z: b.__setitem__(0, z[0]),
    "into a view": lambda b, v, z: v["row"].copy_(z[0]),
    "into a fresh view": lambda b, v, z: b[0].copy_(z[0]),
    "into a detached alias": lambda b, v, z: v["detached"].mul_(z),
    "by a tracked index": lambda b, v, z: b.__setitem__(z[0, 0].long().clamp(0, 0), 0.0),
    "by a tracked mask": lambda b, v, z: b.masked_fill_(z > 0, 1.0),
    "by an operator": lambda b, v, z: b.__iadd__(z),
    "by out": lambda b, v, z: torch.exp(z[0], out=v["row"]),
}


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("reader", ["base", "row", "column", "flat", "detached", "transposed"])
def test_a_write_reaches_every_older_and_newer_view(name: str, reader: str) -> None:
    base, z = torch.zeros(2, 3), track(torch.ones(2, 3), "z")
    older = _views(base)
    WRITES[name](base, older, z)
    newer = {"base": base, **_views(base)}
    for tensor in ({"base": base, **older}[reader], newer[reader]):
        assert provenance_of(tensor + 1) == {"z"}
        assert provenance_of(torch.exp(tensor)) == {"z"}
        assert provenance_of(torch.nn.functional.relu(tensor)) == {"z"}


def test_other_storages_stay_clean() -> None:
    base, other, z = torch.zeros(3), torch.ones(2), track(torch.ones(3), "z")
    view = base[1:]
    base.add_(z)
    assert provenance_of(other + 1) == frozenset()
    assert type(other + 1) is Tensor
    assert provenance_of(view * other) == {"z"}


def test_a_tracked_view_gains_what_is_written_later() -> None:
    base, z, w = torch.zeros(3), track(torch.ones(3), "z"), track(torch.ones(3), "w")
    base.add_(z)
    view = base[1:]
    base.mul_(w)
    assert provenance_of(view + 1) == {"z", "w"}
    assert provenance_of(1 - view) == {"z", "w"}
    assert provenance_of(view.exp()) == {"z", "w"}


def test_a_write_into_a_tensor_of_its_own_needs_no_watch() -> None:
    base, z = torch.zeros(3), track(torch.ones(3), "z")
    base[0] = z[0]
    assert storage.table == {}
    assert torch._C._len_torch_function_stack() == 0


def test_an_entry_lives_as_long_as_its_storage() -> None:
    base, z = torch.zeros(3), track(torch.ones(3), "z")
    view = base[1:]
    base.add_(z)
    assert len(storage.table) == 1
    del base, view
    gc.collect()
    storage.purge()
    assert storage.table == {}


def test_watching_leaves_the_modes_of_the_user_in_place() -> None:
    class Mine(TorchFunctionMode):
        calls = 0

        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            Mine.calls += 1
            return func(*args, **(kwargs or {}))

    base, z = torch.zeros(3), track(torch.ones(3), "z")
    view = base[1:]
    with Mine():
        base.add_(z)
        assert provenance_of(view + 1) == {"z"}
    seen = Mine.calls
    assert provenance_of(view + 1) == {"z"}
    assert Mine.calls == seen > 0
    storage.unwatch()
    assert torch._C._len_torch_function_stack() == 0


def test_asking_for_the_provenance_is_no_escape() -> None:
    with an.record() as trace:
        base, z = torch.zeros(3), an.track(torch.ones(3), "z")
        view = base[1:]
        base.add_(z)
        assert an.provenance_of(view) == an.provenance_of(base) == {"z"}
        view.data = z[1:]
        assert trace.escapes == ()


@pytest.mark.parametrize("is_write", [True, False], ids=["as it is", "not taken for a write"])
def test_data_that_is_set_after_the_block(is_write: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_write:
        for module in (inplace, torch_function):
            monkeypatch.setattr(module, "is_write", lambda name: False)
    with an.record():
        z = Bernoulli(torch.full((3,), 0.4)).sample()
        other = Bernoulli(torch.full((3,), 0.4)).sample()
    kept = z[:2]
    z.data = other
    assert ("other" in provenance_of(z + 1)) is is_write
    assert "other" not in provenance_of(kept)


def test_untracking_and_pickling_work_while_watching() -> None:
    with an.record() as trace:
        base, z = torch.zeros(3), an.track(torch.ones(3), "z")
        view = base[1:]
        base.add_(z)
        other = an.track(torch.ones(3), "other")
        assert type(an.untrack(other)) is Tensor
        assert an.untrack(other).sum().item() == 3.0
        assert an.provenance_of(view * an.untrack(other)[1:]) == {"z"}
        assert not trace.escapes
        assert an.provenance_of(pickle.loads(pickle.dumps(other))) == {"other"}
    (found,) = trace.escapes
    assert found.sources == {"other"}


def _written_memory() -> Tensor:
    """Write a tracked value into memory that another tensor sees; return that."""
    base, z = torch.zeros(3), Bernoulli(torch.full((3,), 0.5)).sample()
    view = base[1:]
    base.add_(z)
    return view


def test_nothing_is_looked_up_after_a_draw_where_the_memory_is_gone() -> None:
    with an.record():
        view = _written_memory()
        assert torch._C._len_torch_function_stack() == 1
        del view
        z = Bernoulli(torch.full((3,), 0.5)).sample()
        assert torch._C._len_torch_function_stack() == 0
        assert storage.table == {}
        assert provenance_of(z * 2) == {"z_1"}


def test_the_memory_that_is_gone_is_forgotten_by_what_is_looked_up() -> None:
    with an.record():
        kept = _written_memory()
        for _ in range(3):
            _written_memory()
        for _ in range(5):
            torch.zeros(3) + 1
        assert len(storage.table) == 1
        assert provenance_of(kept * 2) == {"z"}


def test_a_recording_that_a_hook_closes_leaves_no_mode_behind() -> None:
    for _ in range(2):
        recording = an.record()
        recording.__enter__()
        view = _written_memory()
        w = torch.ones(2, requires_grad=True)
        loss = (w * view).sum() + (w * 2).sum()

        def close(_: Tensor, recording: Any = recording) -> None:
            recording.__exit__(None, None, None)

        w.register_hook(close)
        torch.autograd.backward([(w * 3).sum()])
        del loss, view
    with an.record():
        pass
    assert torch._C._len_torch_function_stack() == 0
