"""Private memory of CPython: numbers that are others when a dictionary or the subclasses change.

CPython gives a dictionary a number that no other has, nor has had, whenever an entry is set or
deleted, by whatever way (PEP 509). The classes directly below a class stand in such a dictionary
too. To read a number touches one line of memory, where to look entries up touches many.

>>> held = {"a": 1}
>>> numbers = Numbers([held], [])
>>> before = numbers.read()
>>> numbers.read() == before
True
>>> held["a"] = 2
>>> numbers.read() == before
False
"""

import ctypes
import gc
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

_FIRST, _WORDS = 2, 1 << 45 if sys.maxsize >> 62 else 1


def _reading() -> Callable[[Any], Any]:
    """Return what reads words of all the memory that this process can address.

    It is read of living objects only. The array is no variable, which a debugger would show.
    """
    space: Any = (ctypes.c_uint64 * _WORDS).from_address(8 * _FIRST)
    memory: Any = np.frombuffer(space, dtype=np.uint64)
    memory.flags.writeable = False
    take: Callable[[Any], Any] = memory.take
    return take


_words = _reading()

_NUMBER = 3
"""The word of a dictionary that is its number."""

_SUBCLASSES = 45
"""The word of a class that tells where the dictionary of its subclasses is."""


class Numbers:
    """The numbers of dictionaries, and of the subclasses of classes.

    `first` are the numbers at the beginning; `gather` returns them as they are, as an array.
    """

    def __init__(self, dicts: Sequence[dict[str, Any]], classes: Sequence[type]) -> None:
        """Take what they are the numbers of, and hold it."""
        self._count = len(dicts)
        below = [_subclasses(kind) for kind in classes]
        self._held = *dicts, *classes, *below
        words = [_word(each, _NUMBER) for each in dicts]
        words += [_word(kind, _SUBCLASSES) for kind in classes]
        words += [_word(each, _NUMBER) for each in below if each is not None]
        self.gather = partial(_words, np.array(words, dtype=np.intp))
        self.first = self.read()
        shown = np.frombuffer(self.first, np.uint64)[len(dicts) : len(dicts) + len(classes)]
        if shown.tolist() != [0 if each is None else id(each) for each in below]:
            Numbers.__init__(self, dicts, classes)  # another thread was quicker

    def read(self) -> bytes:
        """Return the numbers as they are now."""
        found: bytes = self.gather().tobytes()
        return found

    def changed(self, before: bytes, now: bytes) -> tuple[list[int], bool]:
        """Return the places of the dictionaries that have changed, and whether subclasses have."""
        is_other = np.frombuffer(before, np.uint64) != np.frombuffer(now, np.uint64)
        count = self._count
        return np.flatnonzero(is_other[:count]).tolist(), bool(is_other[count:].any())


def _word(held: object, number: int) -> int:
    return id(held) // 8 + number - _FIRST


def _subclasses(kind: type) -> Any:
    """Return the dictionary of the subclasses of a class, None where it has none."""
    try:
        return ctypes.py_object.from_address(id(kind) + 8 * _SUBCLASSES).value
    except ValueError:
        return None


def shown_by(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dictionary behind `vars`, which shows that of a class only."""
    found: dict[str, Any] = shown if isinstance(shown, dict) else gc.get_referents(shown)[0]
    return found


def _are_as_expected() -> bool:
    """Return whether the numbers are where they are looked for, and are others when they are to."""
    is_tried = sys.implementation.name == "cpython" and (3, 11) <= sys.version_info < (3, 14)
    if not is_tried or _WORDS == 1 or sysconfig.get_config_var("Py_GIL_DISABLED"):
        return False
    held: dict[str, Any] = {"a": 1, "b": 2}
    kind: Any = type("Root", (), {})
    below: list[Any] = []
    changes: tuple[Callable[[], object], ...] = (
        lambda: held.update(a=2),
        lambda: held.update(a=1),
        lambda: held.pop("b"),
        lambda: setattr(kind, "a", 1),
        lambda: delattr(kind, "a"),
        lambda: shown_by(vars(kind)).update(a=2),
        lambda: below.append(type("Below", (kind,), {})),
        lambda: below.append(type("Beside", (kind,), {})),
        lambda: setattr(below[0], "__bases__", (type("Other", (), {}),)),
        lambda: (held["a"], kind.a, vars(kind)["a"], kind()),  # which changes nothing
    )
    seen = []
    for change in changes:
        seen.append(Numbers([held, shown_by(vars(kind))], [kind]).read())
        change()
    last = Numbers([held, shown_by(vars(kind))], [kind]).read()
    return len(set(seen)) == len(seen) and last == seen[-1]


ARE_NUMBERED = _are_as_expected()
"""Whether this interpreter has such numbers; where it has not, each place is looked at."""
