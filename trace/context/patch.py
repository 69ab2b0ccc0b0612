"""Patches of torch: what takes the place of its attributes, and when it is put back.

What draws, and what scores a draw, stays replaced after the first recording, and does what it did
before as long as none is open: it asks `switch.is_on` first. Other attributes of classes are given
back by what stands in their place, where somebody asks for them and no recording is open. Those of
modules are replaced while a recording is open, and put back with the last one. What somebody else
has put into a place, as a test does, is met there when a recording opens, and stands there again
afterwards.
"""

import inspect
import sys
from collections.abc import Callable, Iterable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from ancestral.trace.context.unchanged import ABSENT, Classes, Places, holding

_UNKNOWN: Any = object()  # nothing was made yet


class Patch(NamedTuple):
    """An attribute of torch that recordings replace.

    Attributes:
        owner: the class or the module that has it.
        name: its name.
        make: returns what takes the place of what is there.
        is_raw: whether `make` is given a descriptor as it stands in a class, not what it returns.
        stays: whether that stays there between recordings; it has to ask `switch.is_on` first.
    """

    owner: Any
    name: str
    make: Callable[[Any], Any]
    is_raw: bool = False
    stays: bool = False

    @property
    def there(self) -> Any:
        """What the owner itself has there now."""
        return vars(self.owner).get(self.name, ABSENT)

    def made(self, there: Any) -> Any:
        """Return what takes the place of what is there, or is inherited."""
        if not self.is_raw:
            return self.make(getattr(self.owner, self.name))
        is_own = there is not ABSENT
        return self.make(there if is_own else inspect.getattr_static(self.owner, self.name))


class Group:
    """Attributes that are replaced together, `theirs` by `ours`, and put back together."""

    def __init__(self, patches: Iterable[Patch]) -> None:
        """Take the attributes, and replace none of them yet."""
        self.patches = tuple(patches)
        self._theirs = [_UNKNOWN] * len(self.patches)
        self._ours = [_UNKNOWN] * len(self.patches)

    def replace(self) -> None:
        """Replace what is there, by what was made before unless somebody has changed it."""
        self._look()
        for patch, ours in zip(self.patches, self._ours, strict=True):
            setattr(patch.owner, patch.name, ours)

    def restore(self) -> None:
        """Put back what was there, but where somebody else has changed it since."""
        for index, (patch, ours) in enumerate(zip(self.patches, self._ours, strict=True)):
            if patch.there is ours:
                self._put_back(index)

    def _put_back(self, index: int) -> None:
        patch, theirs = self.patches[index], self._theirs[index]
        if theirs is ABSENT:
            delattr(patch.owner, patch.name)
        else:
            setattr(patch.owner, patch.name, theirs)

    def _look(self) -> None:
        """Make what takes the place of what is there, where that is new."""
        for index, patch in enumerate(self.patches):
            there = patch.there
            # Ours is there where somebody has put back what he found in a recording.
            if there is not self._theirs[index] and there is not self._ours[index]:
                self._theirs[index], self._ours[index] = there, patch.made(there)


class Lasting(Group):
    """Attributes that are replaced often: in C, where all is as it was the last time."""

    def __init__(self, patches: Iterable[Patch]) -> None:
        """Take the attributes, and replace none of them yet."""
        super().__init__(patches)
        self._prepare()

    def replace(self) -> None:
        """Replace what is there, by what was made before unless somebody has changed it."""
        if not self.expected.hold():
            self._look()
            self._prepare()
        self.replace_known()

    def restore(self) -> None:
        """Put back what was there, but where somebody else has changed it since."""
        if self._are_ours():
            self._change_back()
        else:
            super().restore()

    def _prepare(self) -> None:
        """Lay out what is to be there between recordings, and what is done then."""
        self.expected = self._places(self._theirs)
        self.replace_known = _Change(self.patches, self._ours)  # which knows what is there
        self._change_back = _Change(self.patches, self._theirs)
        self._are_ours = self._asking(self._places(self._ours))

    def _places(self, values: Iterable[Any]) -> Places:
        rows = zip(self.patches, values, strict=True)
        return Places.of((vars(patch.owner), patch.name, value) for patch, value in rows)

    @staticmethod
    def _asking(places: Places) -> Callable[[], bool]:
        return holding(places)


class Found(Lasting):
    """What a recording has found to replace, as methods of the classes of users."""

    def __init__(self, patches: Iterable[Patch], before: "Found | None" = None) -> None:
        """Take the attributes, and what was made for those that were found before."""
        Group.__init__(self, patches)
        self._is_laid_out = False
        known = {} if before is None else before._made
        for index, patch in enumerate(self.patches):
            found = known.get((id(patch.owner), patch.name), (_UNKNOWN, _UNKNOWN))
            self._theirs[index], self._ours[index] = found

    def lay_out(self) -> None:
        """Let recordings to come replace these at once."""
        self._prepare()
        self._is_laid_out = True

    def replace(self) -> None:
        """Replace what is there, by what was made before unless somebody has changed it."""
        Group.replace(self)

    def restore(self) -> None:
        """Put back what was there, but where somebody else has changed it since."""
        if self._is_laid_out:
            super().restore()
        else:
            Group.restore(self)

    @property
    def _made(self) -> dict[tuple[int, str], tuple[Any, Any]]:
        rows = zip(self.patches, self._theirs, self._ours, strict=True)
        return {(id(patch.owner), patch.name): (theirs, ours) for patch, theirs, ours in rows}

    @staticmethod
    def _asking(places: Places) -> Callable[[], bool]:
        return places.hold  # to compile an expression takes longer, and they are seldom the same


class Staying(Group):
    """Attributes that stay replaced between recordings."""

    def __init__(self, patches: Iterable[Patch]) -> None:
        """Take the attributes as torch has them."""
        super().__init__(patches)
        self._theirs = [patch.there for patch in self.patches]
        self._there: Places | None = None  # after the last recording
        self._foreign: list[Patch] = []

    @property
    def expected(self) -> Places:
        """What is in classes of others between recordings.

        In a module, what is somebody else's is left as it is, so that it makes no difference.
        """
        rows = zip(self.patches, zip(*self._there or (), strict=True), strict=True)
        return Places.of(row for patch, row in rows if _is_of_others(patch.owner))

    def of(self, patches: Iterable[Patch]) -> "Staying":
        """Return a group of the same kind, of other attributes."""
        return Staying(patches)

    def replace_own(self) -> list[Patch]:
        """Replace what is torch's own; return the places of what is somebody else's."""
        if self._there is not None and self._there.hold():
            return list(self._foreign)
        self._foreign = []
        rows = []
        for index, patch in enumerate(self.patches):
            there = patch.there
            if there is self._theirs[index]:
                if self._ours[index] is _UNKNOWN:
                    self._ours[index] = self._made(patch, there)
                there = self._ours[index]
                setattr(patch.owner, patch.name, there)
            elif there is not self._ours[index]:
                self._foreign.append(patch)
            rows.append((vars(patch.owner), patch.name, there))
        self._there = Places.of(rows)
        return list(self._foreign)

    def _made(self, patch: Patch, there: Any) -> Any:
        return patch.made(there)


class Openness(Protocol):
    """Whether a recording is open, which changes under the lock."""

    is_on: bool
    lock: Any
    given_back: list[Callable[[], None]]


class Waiting(Staying):
    """Attributes of classes that wait between recordings: torch's own to whoever asks then."""

    def __init__(self, patches: Iterable[Patch], switch: Openness) -> None:
        """Take the attributes as torch has them, and what says whether a recording is open."""
        super().__init__(patches)
        self._switch = switch

    def of(self, patches: Iterable[Patch]) -> "Waiting":
        """Return a group of the same kind, of other attributes."""
        return Waiting(patches, self._switch)

    def give_back(self, *patches: Patch) -> None:
        """Put back what is torch's own, unless a recording is open, or opens in another thread."""
        if not self._switch.lock.acquire(blocking=False):
            return
        try:
            for patch in patches if not self._switch.is_on else ():
                index = self.patches.index(patch)
                if patch.there is self._ours[index]:
                    self._put_back(index)
                    self._switch.given_back.append(partial(self._put_again, index))
        finally:
            self._switch.lock.release()

    def _put_again(self, index: int) -> None:
        patch = self.patches[index]
        if patch.there is self._theirs[index]:
            setattr(patch.owner, patch.name, self._ours[index])

    def _made(self, patch: Patch, there: Any) -> Any:
        own = inspect.getattr_static(patch.owner, patch.name)
        kind = _WaitingData if hasattr(type(own), "__set__") else _WaitingAttribute
        return kind(self, self._switch, patch, there, own, patch.made(there))


class _WaitingAttribute:
    """An attribute that is torch's own where no recording is open, and ours where one is."""

    def __init__(
        self, group: Waiting, switch: Openness, patch: Patch, there: Any, own: Any, ours: Any
    ) -> None:
        self._group, self._switch, self._patch = group, switch, patch
        self._is_inherited = there is ABSENT
        self._own, self._ours = own, ours

    def __get__(self, instance: Any, kind: Any = None) -> Any:
        if self._switch.is_on:
            return self._ours.__get__(instance, kind)
        self._group.give_back(self._patch)
        owner, name = self._patch.owner, self._patch.name
        if instance is None and kind is owner and self._patch.there is not self:
            return getattr(owner, name)  # its metaclass may have a say
        if self._is_inherited:  # from a class that stands behind the owner, in this order of bases
            return getattr(super(owner, kind if instance is None else instance), name)
        return self._own.__get__(instance, kind) if hasattr(self._own, "__get__") else self._own


class _WaitingData(_WaitingAttribute):
    """One that can be written."""

    def __set__(self, instance: Any, value: Any) -> None:
        if self._switch.is_on:
            self._ours.__set__(instance, value)
        else:
            self._group.give_back(self._patch)
            self._own.__set__(instance, value)

    def __delete__(self, instance: Any) -> None:
        self._own.__delete__(instance)


def _is_of_others(owner: Any) -> bool:
    return isinstance(owner, type) and not owner.__module__.startswith("ancestral.")


def own_of(attribute: Any) -> Any:
    """Return what torch has in place of one that waits, None if it only inherits it there."""
    if not isinstance(attribute, _WaitingAttribute):
        return attribute
    return None if attribute._is_inherited else attribute._own


ASKING = _WaitingAttribute.__get__.__code__
"""The code that stands between who asks for an attribute of torch and what gives it."""


class _Change:
    """What gives attributes their values, those of a module at once; in C, since it is often."""

    def __init__(self, patches: Iterable[Patch], values: Iterable[Any]) -> None:
        of_classes: list[tuple[Any, str, Any]] = []
        self._deleted: list[tuple[Any, str]] = []
        of_modules: dict[ModuleType, dict[str, Any]] = {}
        for patch, value in zip(patches, values, strict=True):
            if value is ABSENT:
                self._deleted.append((patch.owner, patch.name))
            elif type(patch.owner) is ModuleType:
                of_modules.setdefault(patch.owner, {})[patch.name] = value
            else:
                of_classes.append((patch.owner, patch.name, value))
        self._set = [[row[column] for row in of_classes] for column in range(3)]
        self._updates = [vars(module) for module in of_modules], list(of_modules.values())

    def __call__(self) -> None:
        list(map(setattr, *self._set))
        for owner, name in self._deleted:
            delattr(owner, name)
        list(map(dict.update, *self._updates))


class Descendants:
    """The classes below one, of which those that `is_known` says are left out.

    `names` are the attributes that are looked for in the others.
    """

    def __init__(
        self, root: type, is_known: Callable[[type], bool], names: Iterable[str] = ()
    ) -> None:
        """Take the class whose descendants they are."""
        self.root = root
        self._is_known = is_known
        self._names = tuple(names)

    def others(self) -> list[type]:
        """Return those of users."""
        return [kind for kind in subclasses(self.root) if not self._is_known(kind)]

    def places(self) -> Places:
        """Return what those of users hold now where something is looked for."""
        owners = [vars(kind) for kind in self.others()]
        return Places.of((d, name, d.get(name, ABSENT)) for d in owners for name in self._names)


def is_of_a_library(kind: type) -> bool:
    """Return whether a class can be imported, so that nobody needs to let go of it or pickle it."""
    module = sys.modules.get(kind.__module__)
    return kind.__module__ != "__main__" and getattr(module, kind.__name__, None) is kind


def subclasses(root: type) -> list[type]:
    """Return all classes below one, each once."""
    return Classes.of(root).others
