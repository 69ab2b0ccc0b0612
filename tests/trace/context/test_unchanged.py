"""What a recording asks before it opens as the last one did: nothing that changes goes unseen."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributions as d

import ancestral as an
from ancestral.provenance.tensor.python_internals import ARE_NUMBERED
from ancestral.trace.context import unchanged
from ancestral.trace.context.patch import Lasting, Patch
from ancestral.trace.context.switch import switch
from ancestral.trace.context.unchanged import (
    ABSENT,
    Classes,
    Places,
    Unchanged,
    holding,
)

P = torch.tensor([0.2, 0.7])


def test_each_change_of_a_place_is_seen() -> None:
    class Owner:
        f = len

    module = ModuleType("owner")
    vars(module).update(f=len, g=max)
    rows: list[Any] = [(vars(Owner), "f", len), (vars(module), "f", len), (vars(module), "g", max)]
    hold = holding(Places.of(rows))
    assert hold()
    for owner, name, value in ((Owner, "f", len), (module, "f", len), (module, "g", max)):
        setattr(owner, name, min)
        assert not hold()
        delattr(owner, name)
        assert not hold()
        setattr(owner, name, value)
        assert hold()


def test_an_equal_value_is_another() -> None:
    held = {"f": [1]}
    hold = holding(Places.of([(held, "f", held["f"])]))
    assert hold()
    held["f"] = [1]
    assert not hold()


def _unchanged(classes: Classes) -> Unchanged:
    none = Places.of([])
    return Unchanged(none, none, none, classes)


def test_each_new_class_is_seen() -> None:
    class Root:
        pass

    class Known(Root):
        pass

    held: list[type] = [Known]
    for parent in (Root, Known):
        known = _unchanged(Classes.joined([Classes.of(Root), Classes.of(int)]))
        assert known
        held.append(type("Below", (parent,), {}))
        assert not known
        assert set(Classes.of(Root).others) == set(held)
    known = _unchanged(Classes.of(Root))
    held.pop()
    gc.collect()
    assert known  # which holds on to what it knows


@pytest.fixture(autouse=True)
def _uncollected() -> Iterator[None]:
    """Look for what nobody holds only where a test says so: recordings look anew after that."""
    gc.disable()
    yield
    gc.enable()


def ones(self: Any, sample_shape: Any = ()) -> torch.Tensor:
    return torch.ones(2)


@contextmanager
def mocked(owner: Any, name: str) -> Iterator[None]:
    with mock.patch.object(owner, name, ones):
        yield


@contextmanager
def defined() -> Iterator[None]:
    class Silent:
        def __init_subclass__(cls) -> None:
            """Tell nobody above."""

    class Mine(Silent, d.Bernoulli):
        sample = ones

    yield


CHANGES: dict[str, Callable[[], Any]] = {
    "a draw": lambda: mocked(d.Bernoulli, "sample"),
    "a density": lambda: mocked(d.Normal, "log_prob"),
    "a check": lambda: mocked(d.Distribution, "_validate_sample"),
    "what waits": lambda: mocked(torch.Tensor, "detach"),
    "what is inherited": lambda: mocked(torch.autograd.Function, "apply"),
    "a function of torch": lambda: mocked(torch, "full"),
    "the stance": lambda: torch.compiler.set_stance("force_eager"),
    "a class": defined,
}


def _opens_as_before() -> bool:
    known = switch._as_before
    return known is not None and bool(known.unchanged)


@pytest.mark.parametrize("change", CHANGES)
def test_no_recording_opens_as_before_after_a_change(change: str) -> None:
    for _ in range(2):
        with an.record() as trace:
            d.Bernoulli(P).sample()
    assert _opens_as_before()
    with CHANGES[change]():
        assert not _opens_as_before()
        with an.record() as trace:
            z = d.Bernoulli(P).sample()
        assert an.provenance_of(z) == set(trace) == {"z"}


def _dict_of(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = gc.get_referents(vars(kind))[0]
    return found


def _set_anew(owner: Any, value: object) -> None:
    del owner.f
    owner.f = value


SETTINGS: dict[str, Callable[[Any, Any], object]] = {
    "as Python does": lambda owner, value: setattr(owner, "f", value),
    "past a metaclass": lambda owner, value: type.__setattr__(owner, "f", value),
    "in its dictionary": lambda owner, value: _dict_of(owner).update(f=value),
    "after it was deleted": lambda owner, value: _set_anew(owner, value),
    "deleted in its dictionary": lambda owner, value: (
        _dict_of(owner).pop("f"),
        _dict_of(owner).setdefault("f", value),
    ),
}


@pytest.mark.parametrize("is_numbered", [ARE_NUMBERED, False])
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_class_is_as_before_only_if_each_place_holds_the_very_value(
    setting: str, is_numbered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "ARE_NUMBERED", is_numbered)
    below: Any = type("Owner", (type("Base", (), {"g": len}),), {"f": len})
    none = Places.of([])
    places = Places.of([(vars(below), "f", len), (vars(below), "g", ABSENT)])
    known = Unchanged(none, places, none, Classes.of(below))
    assert known
    for _ in range(2):
        SETTINGS[setting](below, max)
        assert not known
        assert not known
        SETTINGS[setting](below, len)
        assert known
        assert known
        below.__base__.f = max  # which it does not inherit
        below.other = 1
        assert known
        below.g = len
        assert not known
        del below.g
        assert known


@pytest.mark.parametrize("is_numbered", [ARE_NUMBERED, False])
def test_a_class_that_goes_and_comes_back_is_the_same_and_seen_the_next_time(
    is_numbered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unchanged, "ARE_NUMBERED", is_numbered)
    root, other, below = (type(name, (), {}) for name in ("Root", "Other", "Below"))
    kind: Any = type("Kind", (root,), {})
    known = _unchanged(Classes.of(root))
    assert known
    for _ in range(3):
        kind.__bases__ = (other,)  # whose class knows of none below now, and frees what it knew in
        assert not known
        kind.__bases__ = (root,)
        assert known
        kind.__bases__ = (other,)
        kind.__bases__ = (root,)
        assert known
        assert known
        below.__bases__  # noqa: B018  # reading changes nothing
        held = type("More", (root,), {})
        assert not known
        held.__bases__ = (other,)
        assert known
        held = type("More", (kind,), {})
        assert not known
        held.__bases__ = (other,)
        assert known


def test_what_is_given_back_between_recordings_is_asked_for_alone() -> None:
    for _ in range(4):
        with an.record():
            d.Bernoulli(P).sample()
        torch.ones(()).detach()
    with an.record():
        pass
    assert _opens_as_before()


def test_what_somebody_adds_where_something_was_inherited_is_seen() -> None:
    owner: Any = type("Owner", (list,), {})
    group = Lasting([Patch(owner, "append", lambda _: len)])
    group.replace()
    group.restore()
    assert "append" not in vars(owner)
    hold = holding(group.expected)
    assert hold()
    assert group.expected.hold()
    owner.append = len
    assert not hold()
    assert not group.expected.hold()
