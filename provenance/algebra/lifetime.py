"""Lifetimes: of a universe, until a gradient is taken, and of what is kept while it is used."""

import itertools
import os
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import ref

T = TypeVar("T")

_started = time.time_ns()
_serials = itertools.count()
_process = [os.getpid()]


def _forked() -> None:
    _process[:] = [os.getpid()]


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing is forked
    os.register_at_fork(after_in_child=_forked)


class Lifetime:
    """Whose the sources of a universe are, and in what state it is.

    `owner` is whoever the sources belong to, kept alive by us until it is released. `state` is
    "open" until a gradient is taken, "used" from then on, and "settled" once it was
    taken for good. To other universes, the values of one that is "used" or "settled" are constants.
    The universe of a draw that no recording takes in is "apart": nothing comes of its values but
    that the recordings that they reach know of them.

    `later` is what is computed from our values now depends on besides: what Python has read of them
    by the end of the recording, or since. `is_past` says that it depends on less or more than they
    do: it is "settled", or there is a `later`.
    """

    __slots__ = ("_kept", "_later", "_owner", "is_past", "serial", "state", "token")

    def __init__(self, owner: object) -> None:
        """Begin, in the state "open"."""
        self.serial = serial = next(_serials)
        # No other has the same, in this process, in another, or in a later one.
        self.token = (_process[0], serial, _started)
        self._kept = owner
        self._owner = None if owner is None else ref(owner)
        self._later: Any = None
        self.state = "open"
        self.is_past = False

    def become(self, state: str) -> None:
        """Enter a state: see the class."""
        self.state = state
        self.is_past = state == "settled" or self._later is not None

    @property
    def later(self) -> Any:
        """What is computed now depends on besides, of shape [], None if on nothing."""
        return self._later

    @later.setter
    def later(self, later: Any) -> None:
        self._later = later
        self.become(self.state)

    @property
    def owner(self) -> object:
        """Whoever the sources belong to, None if nobody does, or if it is no more."""
        return None if self._owner is None else self._owner()

    @owner.setter
    def owner(self, owner: object) -> None:
        self._kept = owner
        self._owner = None if owner is None else ref(owner)

    def release(self) -> None:
        """Keep the owner alive no longer: it lives as long as somebody else wants it.

        A tensor that autograd saved refers to us, and an owner to what autograd has saved; Python's
        collector does not see such a circle.
        """
        self._kept = None

    @property
    def is_orphaned(self) -> bool:
        """Whether there was an owner that is no more."""
        return self.is_of_recording and self._owner() is None  # type: ignore[misc]

    @property
    def is_of_recording(self) -> bool:
        """Whether there is or was an owner: a recording, or a draw apart from all."""
        return self._owner is not None

    @property
    def is_adoptable(self) -> bool:
        """Whether the values are no constants to other universes."""
        return self.state in ("open", "apart")

    @property
    def seniority(self) -> tuple[bool, bool, int]:
        """Order universes by which of two adopts the other's sources: the greater does."""
        return (self.state == "open", self._owner is not None, self.serial)


L = TypeVar("L", bound=Lifetime)
_FEW = 64


class Alive(Generic[L]):
    """Lifetimes that somebody still refers to, the oldest first, by their token.

    Each recording adds one, which takes a dictionary of weak values five times as long.
    """

    def __init__(self) -> None:
        self._held: dict[tuple[int, int, int], ref[L]] = {}
        self._most = _FEW  # how many are held when those are left out that are no more

    def add(self, made: L) -> None:
        """Take in one that was made."""
        self._held[made.token] = ref(made)
        if len(self._held) > self._most:
            self._most = max(_FEW, 2 * len(self.values()))

    def get(self, token: tuple[int, int, int]) -> L | None:
        """Return the one with this token, None if it is no more."""
        held = self._held.get(token)
        return None if held is None else held()

    def values(self) -> list[L]:
        """Return all, and forget those that are no more."""
        found: list[L] = []
        for token, held in list(self._held.items()):
            each = held()
            if each is None:
                self._held.pop(token, None)
            else:
                found.append(each)
        return found

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.values())


class Recent:
    """What was found out of something and is kept as long as it is used, by what tells it apart.

    Each counts with its size; of all, the last that were used are kept up to a size.

    >>> recent = Recent(most=2)
    >>> [recent.get(key, lambda: [key], size=1) for key in "abab"], len(recent)
    ([['a'], ['b'], ['a'], ['b']], 2)
    >>> recent.get("c", lambda: ["c"], size=1), len(recent), recent.get("d", list, size=3)
    (['c'], 2, [])
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._found: dict[Any, tuple[Any, int]] = {}  # the one that was used last comes last

    def __len__(self) -> int:
        """Return how many are kept."""
        return len(self._found)

    def get(self, key: Any, make: Callable[[], T], size: int) -> T:
        """Return what is kept under a key, or what is made now, of this size."""
        known = self._found.pop(key, None)
        if known is None:
            known = make(), size
            if size > self._most:
                made: T = known[0]
                return made
            self._size += size
        self._found[key] = known
        while self._size > self._most:
            oldest = next(iter(self._found))
            self._size -= self._found.pop(oldest)[1]
        found: T = known[0]
        return found
