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
from ancestral.trace.context.patch import Lasting, Patch
from ancestral.trace.context.switch import switch
from ancestral.trace.context.unchanged import Classes, Places, Unchanged, holding

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


def test_each_new_class_is_seen() -> None:
    class Root:
        pass

    class Known(Root):
        pass

    held = [Known]
    for parent in (Root, Known):
        known = Unchanged([Places.of([])], [Classes.of(Root), Classes.of(int)])
        assert known
        held.append(type("Below", (parent,), {}))
        assert not known
        assert set(Classes.of(Root).others) == set(held)
    known = Unchanged([Places.of([])], [Classes.of(Root)])
    held.pop()
    gc.collect()
    assert known  # which holds on to what it knows


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
        sample = ones  # type: ignore[assignment]

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


@pytest.mark.parametrize("change", CHANGES)
def test_no_recording_opens_as_before_after_a_change(change: str) -> None:
    for _ in range(2):
        with an.record() as trace:
            d.Bernoulli(P).sample()
    with CHANGES[change]():
        assert not switch._as_before  # as where another test has left a class of a user
        with an.record() as trace:
            z = d.Bernoulli(P).sample()
        assert an.provenance_of(z) == set(trace) == {"z"}


def test_where_somebody_may_add_what_is_inherited_there_is_nothing_to_expect() -> None:
    module = ModuleType("owner")
    group = Lasting([Patch(module, "__doc__", lambda _: len)])
    group.replace()
    group.restore()
    assert group.expected is not None
    kind: Any = type("Owner", (list,), {})
    group = Lasting([Patch(kind, "append", lambda _: len)])
    group.replace()
    group.restore()
    assert group.expected is None
    assert "append" not in vars(kind)
