"""Unchanged: what somebody may have put into torch, or defined below its classes, meanwhile.

Every recording asks, of all places and classes at once.

>>> places = Places.of([(vars(dict), "get", vars(dict)["get"]), ({"a": 1}, "b", ABSENT)])
>>> places.hold(), Places.of([({"a": 1}, "a", 2)]).hold()
(True, False)
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain, repeat
from operator import is_
from types import CodeType
from typing import Any, NamedTuple, Self

from ancestral.provenance.tensor.python_internals import ARE_NUMBERED, Numbers, shown_by

ABSENT: Any = object()
"""The value of an empty place: the owner inherits the attribute, or has none."""


class Places(NamedTuple):
    """Attributes in the dictionaries of their owners, and what they hold."""

    owners: list[dict[str, Any]]
    names: list[str]
    values: list[Any]

    @classmethod
    def of(cls, rows: Iterable[tuple[Mapping[str, Any], str, Any]]) -> Self:
        """Return the places of rows."""
        held = list(rows)
        owners = [shown_by(row[0]) for row in held]
        return cls(owners, [row[1] for row in held], [row[2] for row in held])

    @classmethod
    def joined(cls, parts: Iterable["Places"]) -> Self:
        """Return the places of all parts."""
        return cls(*_columns(parts))

    def hold(self) -> bool:
        """Return whether each place holds the very value."""
        there = map(dict.get, self.owners, self.names, repeat(ABSENT))
        return all(map(is_, there, self.values))


class Classes(NamedTuple):
    """Classes of which others are below, with these, and those that are the last."""

    parents: list[type]
    below: list[list[type]]
    last: list[type]

    @classmethod
    def of(cls, root: type) -> Self:
        """Return the classes that there are now, the root among them."""
        found = {id(root): (root, children(root))}  # a metaclass may say that all are equal
        pending = [root]
        for kind in pending:  # which grows meanwhile
            for each in found[id(kind)][1]:
                if id(each) not in found:
                    found[id(each)] = each, children(each)
                    pending.append(each)
        parents = [kind for kind, below in found.values() if below]
        last = [kind for kind, below in found.values() if not below]
        return cls(parents, [found[id(kind)][1] for kind in parents], last)

    @classmethod
    def joined(cls, parts: Iterable["Classes"]) -> Self:
        """Return the classes of all parts."""
        return cls(*_columns(parts))

    @property
    def others(self) -> list[type]:
        """Those below the first, each once."""
        return list({id(kind): kind for kind in chain.from_iterable(self.below)}.values())

    def are_all(self) -> bool:
        """Return whether no class was defined below them since, and none is gone."""
        if any(map(children, self.last)):
            return False
        below = list(map(children, self.parents))
        if list(map(len, below)) != list(map(len, self.below)):
            return False
        # Classes of users may be equal to others, if their metaclass says so.
        return all(map(is_, chain.from_iterable(below), chain.from_iterable(self.below)))


def _columns(parts: Iterable[tuple[list[Any], list[Any], list[Any]]]) -> Iterator[list[Any]]:
    """Yield the three lists of all parts, each put together."""
    rows = list(parts)
    return ([*chain.from_iterable([row[at] for row in rows])] for at in range(3))


children: Callable[[type], list[type]] = type.__subclasses__


class Unchanged:
    """Places that hold what they are to hold, and classes that are all there are."""

    def __init__(self, swapped: Places, staying: Places, others: Places, classes: Classes) -> None:
        """Take them, to ask of them often.

        Recordings change those that are swapped, and a few `others`, and let the rest be.
        """
        changing = set(map(id, others.owners))
        rows = list(zip(*staying, strict=True))
        more = Places.of(row for row in rows if id(row[0]) in changing)
        staying = Places.of(row for row in rows if id(row[0]) not in changing)
        self._others = Places.joined([others, more])
        if ARE_NUMBERED:
            self._do_hold = holding(swapped)
            self._is_steady: Callable[[], bool] = _Steady(staying, classes)
        else:
            self._do_hold = holding(Places.joined([swapped, staying]))
            self._is_steady = classes.are_all

    def __bool__(self) -> bool:
        """Return whether that is so."""
        others = self._others
        return self._do_hold() and (not others.names or others.hold()) and self._is_steady()


class _Steady:
    """Places and classes of which is asked by the numbers of their dictionaries."""

    def __init__(self, places: Places, classes: Classes) -> None:
        parts: dict[int, list[tuple[dict[str, Any], str, Any]]] = {}
        for row in zip(*places, strict=True):
            parts.setdefault(id(row[0]), []).append(row)
        self._parts = [Places.of(rows) for rows in parts.values()]
        self._classes = classes
        self._numbers = Numbers([], [])
        self._noted = _NONE

    def __call__(self) -> bool:
        now = self._numbers.gather().tobytes()
        return now == self._noted or self._look(now)

    def _look(self, now: bytes) -> bool:
        """Look at what has changed: what changes meanwhile has another number the next time."""
        parts, are_classes = self._parts, True
        if self._noted != _NONE:
            places, are_classes = self._numbers.changed(self._noted, now)
            parts = [self._parts[place] for place in places]
        if are_classes:  # the dictionary of subclasses may be another one
            parts = self._parts
            dicts = [part.owners[0] for part in parts]
            self._numbers = Numbers(dicts, [*self._classes.parents, *self._classes.last])
            self._noted, now = _NONE, self._numbers.first
            if not self._classes.are_all():
                return False
        if not all(part.hold() for part in parts):
            return False
        self._noted = now
        return True


_NONE = b"none"  # no numbers


def holding(places: Places) -> Callable[[], bool]:
    """Return what asks whether places hold their values: one expression, without a loop.

    It touches little memory. A step of training in between has most of it out of the caches.

    >>> holding(Places.of([({"a": 1}, "a", 1)]))(), holding(Places.of([({"a": 1}, "b", 1)]))()
    (True, False)
    """
    numbers: dict[int, int] = {}
    known: dict[str, Any] = {}
    rows: list[tuple[int, str, bool]] = []
    for index, (owner, name, value) in enumerate(zip(*places, strict=True)):
        number = numbers.setdefault(id(owner), index)
        known[f"owner_{number}"], known[f"value_{index}"] = owner, value
        rows.append((number, name, value is ABSENT))
    exec(_asking(tuple(rows)), known)
    hold: Callable[[], bool] = known["hold"]
    return hold


@lru_cache(maxsize=16)
def _asking(rows: tuple[tuple[int, str, bool], ...]) -> CodeType:
    asked = [
        f"{name!r} not in owner_{number}"
        if is_absent
        else f"owner_{number}[{name!r}] is value_{index}"
        for index, (number, name, is_absent) in enumerate(rows)
    ]
    return compile(_ASKING.format(" and ".join(asked) or True), "<places>", "exec")


_ASKING = """
def hold():
    try:
        return {}
    except KeyError:  # one is empty
        return False
"""
