"""Numbers of dictionaries: each change shows, and where they are elsewhere they are not used."""

import gc
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from ancestral.provenance.tensor import python_internals
from ancestral.provenance.tensor.python_internals import ARE_NUMBERED, Numbers, shown_by

needs_numbers = pytest.mark.skipif(not ARE_NUMBERED, reason="an interpreter without numbers")


def test_this_interpreter_has_numbers_where_it_is_said_to() -> None:
    assert (sys.implementation.name == "cpython" and sys.version_info < (3, 14)) == ARE_NUMBERED


def _assign(module: Any) -> None:
    for _ in range(100):  # until Python knows the way
        module.f = 3
        module.f = 2


def _store(held: Any) -> None:
    for _ in range(100):
        held["f"] = 3
        held["f"] = 2


def _set(owner: Any, *values: object) -> None:
    for value in values:
        if value is None:
            del owner.f
        else:
            owner.f = value


CHANGES: dict[str, Callable[[Any], object]] = {
    "an attribute": _assign,
    "an entry": lambda module: _store(vars(module)),
    "a global variable": lambda module: exec("f = 2", vars(module)),
    "an update": lambda module: vars(module).update(f=2),
    "a union": lambda module: vars(module).__ior__({"f": 2}),
    "a default": lambda module: vars(module).setdefault("g", 2),
    "a deletion": lambda module: delattr(module, "f"),
    "an entry taken": lambda module: vars(module).pop("f"),
    "the last entry taken": lambda module: vars(module).popitem(),
    "a deletion and the same value": lambda module: _set(module, None, 1),
    "another value and the same": lambda module: _set(module, 2, 1),
}


@needs_numbers
@pytest.mark.parametrize("change", CHANGES)
def test_each_change_of_a_module_shows(change: str) -> None:
    owner: Any = ModuleType("owner")
    owner.f = 1
    numbers = Numbers([{}, vars(owner)], [])
    assert numbers.read() == numbers.first
    CHANGES[change](owner)
    assert numbers.changed(numbers.first, numbers.read()) == ([1], False)


CHANGES_OF_CLASSES: dict[str, Callable[[Any], object]] = {
    "an attribute": _assign,
    "past the metaclass": lambda kind: type.__setattr__(kind, "f", 2),
    "a deletion": lambda kind: delattr(kind, "f"),
    "in the dictionary": lambda kind: shown_by(vars(kind)).update(f=2),
    "another value and the same": CHANGES["another value and the same"],
}


@needs_numbers
@pytest.mark.parametrize("change", CHANGES_OF_CLASSES)
def test_each_change_of_a_class_shows(change: str) -> None:
    owner: Any = type("Owner", (type("Base", (), {}),), {"f": 1})
    numbers = Numbers([{}, shown_by(vars(owner))], [owner])
    owner.__base__.f = owner().f  # which changes another
    assert numbers.read() == numbers.first
    CHANGES_OF_CLASSES[change](owner)
    assert numbers.changed(numbers.first, numbers.read()) == ([1], False)


@needs_numbers
def test_classes_below_show() -> None:
    root: Any = type("Root", (), {})
    numbers = Numbers([], [root])
    for _ in range(2):
        below = type("Below", (root,), {})
        now = numbers.read()
        assert numbers.changed(numbers.first, now) == ([], True)
        numbers = Numbers([], [root])
        beside = type("Beside", (root,), {})
        assert numbers.read() != numbers.first
        numbers = Numbers([], [root])
        del below, beside
        gc.collect()
        assert numbers.read() != numbers.first
        numbers = Numbers([], [root])


@pytest.mark.parametrize(
    ("name", "value"), [("_NUMBER", 2), ("_NUMBER", 4), ("_SUBCLASSES", 44), ("_WORDS", 1)]
)
def test_numbers_that_stand_elsewhere_are_not_used(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(python_internals, name, value)
    assert not python_internals._are_as_expected()


def test_another_python_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 14))
    assert not python_internals._are_as_expected()
