"""Patches of torch: what takes the place of its attributes, and when it is put back.

What draws, and what scores a draw, stays replaced after the first recording, and does what it did
before as long as none is open: it asks `switch.is_on` first. All else is replaced while a recording
is open, and put back with the last one. What somebody else has put into a place, as a test does, is
met there when a recording opens, and stands there again afterwards.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import contains, getitem
from types import ModuleType
from typing import Any


@dataclass(frozen=True, eq=False)
class Patch:
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

    def made(self) -> Any:
        """Return what takes the place of what is there now, perhaps inherited."""
        read = inspect.getattr_static if self.is_raw else getattr
        return self.make(read(self.owner, self.name))


_ABSENT: Any = object()  # the owner has nothing there, or inherits it
_UNKNOWN: Any = object()  # nothing was made yet


class Group:
    """Attributes that are replaced together, `theirs` by `ours`, and put back together."""

    def __init__(self, patches: Iterable[Patch]) -> None:
        """Take the attributes, and replace none of them yet."""
        self.patches = tuple(patches)
        self._theirs = [_UNKNOWN] * len(self.patches)
        self._ours = [_UNKNOWN] * len(self.patches)
        self._prepare()

    def replace(self) -> None:
        """Replace what is there, by what was made before unless somebody has changed it."""
        if not self._are_theirs():
            for index, patch in enumerate(self.patches):
                there = patch.there
                # Ours is there where somebody has put back what he found in a recording.
                if there is not self._theirs[index] and there is not self._ours[index]:
                    self._theirs[index], self._ours[index] = there, patch.made()
            self._prepare()
        self._replace()

    def restore(self) -> None:
        """Put back what was there, but where somebody else has changed it since."""
        if self._are_ours():
            self._restore()
            return
        for patch, theirs, ours in zip(self.patches, self._theirs, self._ours, strict=True):
            if patch.there is ours:
                _Change([patch], [theirs])()

    def _prepare(self) -> None:
        """Lay out what most recordings do, which find all as it was: that is done in C."""
        self._replace = _Change(self.patches, self._ours)
        self._restore = _Change(self.patches, self._theirs)
        places = [(vars(patch.owner), patch.name) for patch in self.patches]
        self._all_ours = _columns(places, self._ours)
        held = [index for index, value in enumerate(self._theirs) if value is not _ABSENT]
        self._all_theirs = _columns([places[i] for i in held], [self._theirs[i] for i in held])
        absent = [place for i, place in enumerate(places) if i not in held]
        self._absent = [owner for owner, _ in absent], [name for _, name in absent]

    def _are_ours(self) -> bool:
        return _are_there(self._all_ours)

    def _are_theirs(self) -> bool:
        return _are_there(self._all_theirs) and not any(map(contains, *self._absent))


class Staying(Group):
    """Attributes that stay replaced between recordings."""

    def __init__(self, patches: Iterable[Patch]) -> None:
        """Take the attributes as torch has them."""
        super().__init__(patches)
        self._theirs = [patch.there for patch in self.patches]

    def replace_own(self) -> list[Patch]:
        """Replace what is torch's own; return the places of what is somebody else's."""
        if self._are_ours():
            return []
        foreign: list[Patch] = []
        for index, patch in enumerate(self.patches):
            there = patch.there
            if there is self._theirs[index]:
                if self._ours[index] is _UNKNOWN:
                    self._ours[index] = patch.made()
                setattr(patch.owner, patch.name, self._ours[index])
            elif there is not self._ours[index]:
                foreign.append(patch)
        self._prepare()
        return foreign


_Columns = tuple[list[Any], list[str], list[Any]]


def _columns(places: Sequence[tuple[Any, str]], values: Sequence[Any]) -> _Columns:
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
        self._known: list[type] = []
        self._below: list[list[type]] = [[root]]

    def others(self) -> list[type]:
        """Return those of users; quick where there is none, since that is looked at often."""
        if list(map(_children, self._known)) == self._below:
            return []
        found = subclasses(self._root)
        others = [kind for kind in found if not self._is_known(kind)]
        self._known = [self._root, *(kind for kind in found if self._is_known(kind))]
        self._below = [[self._root]] if others else list(map(_children, self._known))
        return others


_children: Callable[[type], list[type]] = type.__subclasses__


def subclasses(root: type) -> list[type]:
    """Return all classes below one, each once."""
    found: list[type] = root.__subclasses__()
    for kind in found:  # which grows meanwhile
        found += kind.__subclasses__()
    return list(dict.fromkeys(found))
