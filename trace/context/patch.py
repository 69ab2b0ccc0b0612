"""Patches of torch: what takes the place of its attributes, and when it is put back.

What draws, and what scores a draw, stays replaced after the first recording, and does what it did
before as long as none is open: it asks `switch.is_on` first. Other attributes of classes are given
back by what stands in their place, where somebody asks for them and no recording is open. Those of
modules are replaced while a recording is open, and put back with the last one. What somebody else
has put into a place, as a test does, is met there when a recording opens, and stands there again
afterwards.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from operator import contains, getitem
from types import ModuleType
from typing import Any, NamedTuple, Protocol

_ABSENT: Any = object()  # the owner has nothing there, or inherits it
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
        return vars(self.owner).get(self.name, _ABSENT)

    def made(self, there: Any) -> Any:
        """Return what takes the place of what is there, or is inherited."""
        if not self.is_raw:
            return self.make(getattr(self.owner, self.name))
        is_own = there is not _ABSENT
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
        if theirs is _ABSENT:
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
        if not (_are_there(self._all_theirs) and not any(map(contains, *self._absent))):
            self._look()
            self._prepare()
        self._change()

    def restore(self) -> None:
        """Put back what was there, but where somebody else has changed it since."""
        if _are_there(self._all_ours):
            self._change_back()
        else:
            super().restore()

    def _prepare(self) -> None:
        """Lay out what is to be there, and what is done then."""
        self._change = _Change(self.patches, self._ours)
        self._change_back = _Change(self.patches, self._theirs)
        places = [(vars(patch.owner), patch.name) for patch in self.patches]
        self._all_ours = _columns(places, self._ours)
        held = [index for index, value in enumerate(self._theirs) if value is not _ABSENT]
        self._all_theirs = _columns([places[i] for i in held], [self._theirs[i] for i in held])
        absent = [place for i, place in enumerate(places) if i not in held]
        self._absent = [owner for owner, _ in absent], [name for _, name in absent]


class Staying(Group):
    """Attributes that stay replaced between recordings."""

    def __init__(self, patches: Iterable[Patch]) -> None:
        """Take the attributes as torch has them."""
        super().__init__(patches)
        self._theirs = [patch.there for patch in self.patches]
        self._expected: _Columns | None = None  # after the last recording
        self._foreign: list[Patch] = []

    def of(self, patches: Iterable[Patch]) -> "Staying":
        """Return a group of the same kind, of other attributes."""
        return Staying(patches)

    def replace_own(self) -> list[Patch]:
        """Replace what is torch's own; return the places of what is somebody else's."""
        if self._expected is not None and _are_there(self._expected):
            return list(self._foreign)
        self._foreign = []
        for index, patch in enumerate(self.patches):
            there = patch.there
            if there is self._theirs[index]:
                if self._ours[index] is _UNKNOWN:
                    self._ours[index] = self._made(patch, there)
                setattr(patch.owner, patch.name, self._ours[index])
            elif there is not self._ours[index]:
                self._foreign.append(patch)
        places = [(vars(patch.owner), patch.name) for patch in self.patches]
        self._expected = _columns(places, [patch.there for patch in self.patches])
        return list(self._foreign)

    def _made(self, patch: Patch, there: Any) -> Any:
        return patch.made(there)


class Openness(Protocol):
    """Whether a recording is open, which changes under the lock."""

    is_on: bool
    lock: Any


class Waiting(Staying):
    """Attributes of classes that wait between recordings, and are torch's own to who asks then."""

    def __init__(self, patches: Iterable[Patch], switch: Openness) -> None:
        """Take the attributes as torch has them, and what says whether a recording is open."""
        super().__init__(patches)
        self._switch = switch
        self._given_back: list[int] = []

    def of(self, patches: Iterable[Patch]) -> "Waiting":
        """Return a group of the same kind, of other attributes."""
        return Waiting(patches, self._switch)

    def replace_own(self) -> list[Patch]:
        """Replace what is torch's own; return the places of what is somebody else's."""
        while self._given_back:
            index = self._given_back.pop()
            patch = self.patches[index]
            if patch.there is self._theirs[index]:
                setattr(patch.owner, patch.name, self._ours[index])
        return super().replace_own()

    def give_back(self, *patches: Patch) -> None:
        """Put back what is torch's own, unless a recording is open, or opens in another thread."""
        if not self._switch.lock.acquire(blocking=False):
            return
        try:
            for patch in patches if not self._switch.is_on else ():
                index = self.patches.index(patch)
                if patch.there is self._ours[index]:
                    self._put_back(index)
                    self._given_back.append(index)
        finally:
            self._switch.lock.release()

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
        self._is_inherited = there is _ABSENT
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


def own_of(attribute: Any) -> Any:
    """Return what torch has in place of one that waits, None if it only inherits it there."""
    if not isinstance(attribute, _WaitingAttribute):
        return attribute
    return None if attribute._is_inherited else attribute._own


ASKING = _WaitingAttribute.__get__.__code__
"""The code that stands between who asks for an attribute of torch and what gives it."""


_Columns = tuple[list[Any], list[str], list[Any]]


def _columns(places: Sequence[tuple[Any, str]], values: Sequence[Any]) -> _Columns:
    """Return owners, names and values."""
    return [owner for owner, _ in places], [name for _, name in places], list(values)


def _are_there(columns: _Columns) -> bool:
    """Return whether each owner has the very value under the name."""
    owners, names, values = columns
    try:
        return list(map(getitem, owners, names)) == values
    except KeyError:
        return False


class _Change:
    """What gives attributes their values, those of a module at once; in C, since it is often."""

    def __init__(self, patches: Iterable[Patch], values: Iterable[Any]) -> None:
        of_classes: list[tuple[Any, str, Any]] = []
        self._deleted: list[tuple[Any, str]] = []
        of_modules: dict[ModuleType, dict[str, Any]] = {}
        for patch, value in zip(patches, values, strict=True):
            if value is _ABSENT:
                self._deleted.append((patch.owner, patch.name))
            elif type(patch.owner) is ModuleType:
                of_modules.setdefault(patch.owner, {})[patch.name] = value
            else:
                of_classes.append((patch.owner, patch.name, value))
        self._set = [[row[column] for row in of_classes] for column in range(3)]
        self._updates = [(vars(module).update, held) for module, held in of_modules.items()]

    def __call__(self) -> None:
        list(map(setattr, *self._set))
        for owner, name in self._deleted:
            delattr(owner, name)
        for update, held in self._updates:
            update(held)


class Descendants:
    """The classes below one, of which those that `is_known` says are left out."""

    def __init__(self, root: type, is_known: Callable[[type], bool]) -> None:
        """Take the class whose descendants they are."""
        self._root = root
        self._is_known = is_known
        self._parents: list[type] = []
        self._below: list[list[type]] = [[root]]
        self._last: list[type] = []  # classes that had none below them

    def others(self) -> list[type]:
        """Return those of users; quick where there is none, since that is looked at often."""
        if list(map(_children, self._parents)) == self._below and not any(
            map(_children, self._last)
        ):
            return []
        found = subclasses(self._root)
        others = [kind for kind in found if not self._is_known(kind)]
        known = [self._root, *(kind for kind in found if self._is_known(kind))]
        self._parents = [kind for kind in known if _children(kind)]
        self._last = [kind for kind in known if not _children(kind)]
        self._below = [[self._root]] if others else list(map(_children, self._parents))
        return others


_children: Callable[[type], list[type]] = type.__subclasses__


def subclasses(root: type) -> list[type]:
    """Return all classes below one, each once."""
    found: list[type] = root.__subclasses__()
    for kind in found:  # which grows meanwhile
        found += kind.__subclasses__()
    return list(dict.fromkeys(found))
