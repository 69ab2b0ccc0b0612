"""Unchanged: what somebody may have put into torch, or defined below its classes, meanwhile.

Every recording asks, of all places and classes at once.

>>> places = Places.of([(vars(dict), "get", vars(dict)["get"]), ({"a": 1}, "a", 1)])
>>> places.hold(), Places.of([({"a": 1}, "b", 1)]).hold()
(True, False)
"""

import gc
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from itertools import chain
from operator import getitem
from types import CodeType
from typing import Any, NamedTuple, Self


class Places(NamedTuple):
    """Attributes in the dictionaries of their owners, and what they hold."""

    owners: list[Mapping[str, Any]]
    names: list[str]
    values: list[Any]

    @classmethod
    def of(cls, rows: Iterable[tuple[Mapping[str, Any], str, Any]]) -> Self:
        """Return the places of rows."""
        held = list(rows)
        return cls([row[0] for row in held], [row[1] for row in held], [row[2] for row in held])

    def hold(self) -> bool:
        """Return whether each place holds the very value."""
        try:
            return list(map(getitem, self.owners, self.names)) == self.values
        except KeyError:
            return False


class Classes(NamedTuple):
    """A class and all below it: those that have others below them, with these, and the rest."""

    parents: list[type]
    below: list[list[type]]
    last: list[type]

    @classmethod
    def of(cls, root: type) -> Self:
        """Return the classes that there are now."""
        found = {root: children(root)}
        pending = [root]
        for kind in pending:  # which grows meanwhile
            for each in found[kind]:
                if each not in found:
                    found[each] = children(each)
                    pending.append(each)
        parents = [kind for kind, below in found.items() if below]
        last = [kind for kind, below in found.items() if not below]
        return cls(parents, [found[kind] for kind in parents], last)

    @property
    def others(self) -> list[type]:
        """Those below the first, each once."""
        return list(dict.fromkeys(chain.from_iterable(self.below)))

    def are_all(self) -> bool:
        """Return whether no class was defined below them since, and none is gone."""
        return not any(map(children, self.last)) and list(map(children, self.parents)) == self.below


children: Callable[[type], list[type]] = type.__subclasses__


class Unchanged:
    """Places that hold what they are to hold, and classes that are all there are."""

    def __init__(self, places: Iterable[Places], classes: Iterable[Classes]) -> None:
        """Take them, to ask of them often."""
        self._do_hold = holding(Places(*map(_joined, zip(*places, strict=True))))
        self._classes = Classes(*map(_joined, zip(*classes, strict=True)))

    def __bool__(self) -> bool:
        """Return whether that is so."""
        return self._do_hold() and self._classes.are_all()


def _joined(parts: Iterable[list[Any]]) -> list[Any]:
    return list(chain.from_iterable(parts))


def holding(places: Places) -> Callable[[], bool]:
    """Return what asks whether places hold their values: one expression, without a loop.

    It touches little memory. A step of training in between has most of it out of the caches.

    >>> holding(Places.of([({"a": 1}, "a", 1)]))(), holding(Places.of([({"a": 1}, "b", 1)]))()
    (True, False)
    """
    numbers: dict[int, int] = {}
    known: dict[str, Any] = {}
    rows: list[tuple[int, str]] = []
    for index, (shown, name, value) in enumerate(zip(*places, strict=True)):
        # Of a class, `vars` shows the dictionary by another object each time.
        owner = shown if isinstance(shown, dict) else gc.get_referents(shown)[0]
        number = numbers.setdefault(id(owner), index)
        known[f"owner_{number}"], known[f"value_{index}"] = owner, value
        rows.append((number, name))
    exec(_asking(tuple(rows)), known)
    hold: Callable[[], bool] = known["hold"]
    return hold


@lru_cache(maxsize=16)
def _asking(rows: tuple[tuple[int, str], ...]) -> CodeType:
    asked = [f"owner_{row[0]}[{row[1]!r}] is value_{index}" for index, row in enumerate(rows)]
    return compile(_ASKING.format(" and ".join(asked) or True), "<places>", "exec")


_ASKING = """
def hold():
    try:
        return {}
    except KeyError:  # one is empty
        return False
"""
