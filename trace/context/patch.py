"""Patches of torch: what takes the place of its attributes, and when it is put back.

What draws, and what scores a draw, stays replaced after the first recording, and does what it did
before as long as none is open: it asks `switch.is_on` first. All else is replaced while a recording
is open, and put back with the last one. What somebody else has put into a place, as a test does, is
met there when a recording opens, and stands there again afterwards.
"""

import inspect
from collections.abc import Callable, Iterable, Sequence
from operator import contains, getitem
from types import ModuleType
from typing import Any, NamedTuple

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
        for patch, theirs, ours in zip(self.patches, self._theirs, self._ours, strict=True):
            if patch.there is not ours:
                continue
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

    def replace_own(self) -> list[Patch]:
        """Replace what is torch's own; return the places of what is somebody else's."""
        if self._expected is not None and _are_there(self._expected):
            return list(self._foreign)
        self._foreign = []
        for index, patch in enumerate(self.patches):
            there = patch.there
            if there is self._theirs[index]:
                if self._ours[index] is _UNKNOWN:
                    self._ours[index] = patch.made(there)
                setattr(patch.owner, patch.name, self._ours[index])
            elif there is not self._ours[index]:
                self._foreign.append(patch)
        places = [(vars(patch.owner), patch.name) for patch in self.patches]
        self._expected = _columns(places, [patch.there for patch in self.patches])
        return list(self._foreign)


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
