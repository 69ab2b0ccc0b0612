"""Plate detection: the plates of a trace, declared or found in its alignments.

A dimension of one site and one of another belong together where the alignment of an edge maps the
one to the other. Such a class of dimensions is a plate if no path from one member to another leaves
it: then element n of any of them depends on elements n alone of the others. Costs belong to a plate
where they keep it, and need not: a loss sums.

>>> sites = [Site("z", (8, 3)), Site("x", (8,)), Site("w", (8,))]
>>> for extent in extents(sites, [Link("z", "x", (0,)), Link("x", "w", (-1,))]):
...     print(extent.name, extent.size, extent.dims)
plate_0 8 (('z', 0), ('x', 0))
plate_1 3 (('z', 1),)
plate_2 8 (('w', 0),)
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dim, Shape
from ancestral.trace.nodes.plate_frame import Plate


@dataclass(frozen=True)
class Extent:
    """A plate of a trace, and what it extends over.

    `dims` names the sites and costs in it, in program order, each with the dimension of its value
    that indexes the repetitions, counted from the left; None where they come one after the other.
    `subsample_size` of the `size` repetitions are there.
    """

    name: str
    size: int
    subsample_size: int
    dims: tuple[tuple[str, int | None], ...]
    is_declared: bool = False

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the sites and costs, in program order."""
        return tuple(dict.fromkeys(name for name, _ in self.dims))


class Site(NamedTuple):
    """A site or a cost: its independent dimensions, and the plates that it was declared in.

    `declared` has the dimension of the site that each of its plates is, None for those in turn.
    """

    name: str
    shape: Shape
    is_cost: bool = False
    declared: tuple[tuple[Plate, int | None], ...] = ()


class Link(NamedTuple):
    """A direct dependency, with the dimension of the parent that each of the child indexes."""

    parent: str
    child: str
    dims: tuple[int, ...]


def kept(alignment: Alignment) -> tuple[int, ...]:
    """Return for each dimension which one of the source it indexes element by element, or LOST."""
    here = {i: window for i, *window in alignment.here}
    there = {d: window for d, *window in alignment.there}
    return tuple(_same(i, dim, here, there) for i, dim in enumerate(alignment.dims))


def _same(i: int, dim: Dim, here: dict[int, list[int]], there: dict[int, list[int]]) -> int:
    """Return the dimension of a source whose index is that of dimension `i`, or LOST."""
    if not isinstance(dim, int):  # merged: it indexes none by itself
        return LOST
    if dim != LOST:
        is_shifted = here.get(i, [0])[0] != there.get(dim, [0])[0]
        return LOST if is_shifted else dim
    # One element depends on the one with its own index.
    ours = here.get(i, [0, 0])
    same = [d for d, window in there.items() if window == ours and ours[1] - ours[0] == 1]
    return LOST if not same else i if i in same else same[0]


def extents(sites: Sequence[Site], links: Iterable[Link]) -> tuple[Extent, ...]:
    """Return the plates of some sites, in program order: those declared, those found.

    Takes about one step for each dimension of each link.

    Args:
        sites: in program order.
        links: the direct dependencies between them.
    """
    return tuple(_Classes(sites, links).extents())


_Dim = tuple[int, int]  # the number of a site, and one of its dimensions


class _Classes:
    """The classes of dimensions that belong together, sets of them as bit sets of Python integers.

    Every dimension begins as its own class, those that were declared as one plate as one.
    """

    def __init__(self, sites: Sequence[Site], links: Iterable[Link]) -> None:
        self.sites = sites
        numbers = {site.name: number for number, site in enumerate(sites)}
        self.parents: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in sites]
        for link in links:
            self.parents[numbers[link.child]].append((numbers[link.parent], link.dims))
        self.classes: dict[_Dim, int] = {}
        self.roots: list[int] = []
        self.declared: dict[int, Plate] = {}  # by root
        self.named: dict[str, int] = {}
        for number, site in enumerate(sites):
            self._begin(number, site)
        for number, site in enumerate(sites):
            if not site.is_cost:
                for dim, parent in self._aligned(number):
                    self._unite(self.classes[number, dim], self.classes[parent])
        self.bits = [0] * len(self.roots)  # by root: the members' first classes
        for first in range(len(self.roots)):
            self.bits[self.root(first)] |= 1 << first
        # By site: the classes that have a member among the site and its ancestors.
        self.reached: list[int] = []
        self.mixed = self._mixed()
        self.above = self._above()

    def root(self, index: int) -> int:
        """Return the class that stands for this one."""
        while self.roots[index] != index:
            self.roots[index] = index = self.roots[self.roots[index]]
        return index

    def extents(self) -> Iterator[Extent]:
        """Yield the plates in the order of their first members."""
        for number, site in enumerate(self.sites):
            if site.is_cost:
                self._settle(number)
        members: dict[int, list[_Dim]] = {}
        for dim, first in sorted(self.classes.items()):
            members.setdefault(self.root(first), []).append(dim)
        in_turn, counter = self._in_turn(), itertools.count()
        for root, dims in members.items():
            plate = self.declared.get(root)
            shown = [d for d in dims if self._belongs(root, d)]
            labels = tuple((self.sites[number].name, dim) for number, dim in shown)
            if plate is not None:
                yield _declared(plate, labels)
            elif shown:
                free = (f"plate_{i}" for i in counter)
                name = next(n for n in free if n not in self.named and n not in in_turn)
                size = self.sites[shown[0][0]].shape[shown[0][1]]
                yield Extent(name, size, size, labels)
        yield from in_turn.values()

    def _begin(self, number: int, site: Site) -> None:
        plates = {dim: plate for plate, dim in site.declared if dim is not None}
        for dim, size in enumerate(site.shape):
            plate = plates.get(dim)
            if plate is None and (size == 1 or site.is_cost):
                continue  # a cost joins a class later, or none
            known = None if plate is None else self.named.get(plate.name)
            if known is None:
                known = len(self.roots)
                self.roots.append(known)
                if plate is not None:
                    self.named[plate.name] = known
                    self.declared[known] = plate
            self.classes[number, dim] = known

    def _aligned(self, number: int) -> Iterator[tuple[int, _Dim]]:
        """Yield the dimensions of a site that index one of a parent, with that."""
        shape = self.sites[number].shape
        for parent, dims in self.parents[number]:
            theirs = self.sites[parent].shape
            for dim, there in enumerate(dims):
                if there != LOST and shape[dim] == theirs[there] != 1:
                    yield dim, (parent, there)

    def _unite(self, a: int, b: int) -> bool:
        """Make two classes one, unless they were declared as two plates."""
        a, b = sorted((self.root(a), self.root(b)))
        if a == b:
            return True
        if a in self.declared and b in self.declared:
            return False
        if b in self.declared:
            self.declared[a] = self.declared.pop(b)
        self.roots[b] = a
        return True

    def _mixed(self) -> set[int]:
        """Return the classes of which some member depends on another in another way."""
        mixed: set[int] = set()
        for number, site in enumerate(self.sites):
            own = {
                dim: self.root(self.classes[number, dim])
                for dim in range(len(site.shape))
                if (number, dim) in self.classes
            }
            reached = 0
            for parent, dims in self.parents[number]:
                reached |= self.reached[parent]
                if not site.is_cost:
                    mixed |= {
                        root
                        for dim, root in own.items()
                        if self.reached[parent] & self.bits[root]
                        and not self._keeps(parent, dims[dim], root)
                    }
            seen: set[int] = set()
            for root in own.values():
                if root in seen:  # two dimensions of one site cannot both index one plate
                    mixed.add(root)
                seen.add(root)
                reached |= self.bits[root]
            self.reached.append(reached)
        return mixed

    def _keeps(self, parent: int, there: int, root: int) -> bool:
        first = self.classes.get((parent, there)) if there != LOST else None
        return first is not None and self.root(first) == root

    def _above(self) -> list[int]:
        """Return for each root the classes that have a member among its ancestors."""
        above = [0] * len(self.roots)
        for (number, _), first in self.classes.items():
            for parent, _ in self.parents[number]:
                above[self.root(first)] |= self.reached[parent]
        return above

    def _settle(self, number: int) -> None:
        """Let each dimension of a cost join the classes that it keeps apart, and make them one."""
        found: dict[int, set[int]] = {}
        for dim, parent in self._aligned(number):
            if (number, dim) not in self.classes:
                found.setdefault(dim, set()).add(self.root(self.classes[parent]))
        for dim, roots in found.items():
            for root in sorted(roots - self.mixed):
                if not self._is_kept(number, dim, root):
                    continue
                known = self.classes.get((number, dim))
                if known is None:
                    self.classes[number, dim] = root
                elif not self._depend(self.root(known), root):
                    self._merge(self.root(known), root)

    def _is_kept(self, number: int, dim: int, root: int) -> bool:
        return all(
            self._keeps(parent, dims[dim], root)
            for parent, dims in self.parents[number]
            if self.reached[parent] & self.bits[root]
        )

    def _depend(self, a: int, b: int) -> bool:
        """Whether some member of one of two classes depends on one of the other."""
        return bool(self.above[a] & self.bits[b] or self.above[b] & self.bits[a])

    def _merge(self, a: int, b: int) -> None:
        if self._unite(a, b) and a != b:
            root, other = sorted((a, b))
            self.bits[root] |= self.bits[other]
            self.above[root] |= self.above[other]

    def _belongs(self, root: int, dim: _Dim) -> bool:
        """Whether to show a member: of a declared plate that others mix, those declared only."""
        number, place = dim
        if any(there == place for _, there in self.sites[number].declared):
            return True
        if root in self.mixed:
            return False
        return not self.sites[number].is_cost or self._is_kept(number, place, root)

    def _in_turn(self) -> dict[str, Extent]:
        """Return the plates whose repetitions come one after the other."""
        found: dict[str, tuple[Plate, list[str]]] = {}
        for site in self.sites:
            for plate, dim in site.declared:
                if dim is None:
                    found.setdefault(plate.name, (plate, []))[1].append(site.name)
        return {
            name: _declared(plate, tuple((site, None) for site in names))
            for name, (plate, names) in found.items()
        }


def _declared(plate: Plate, dims: tuple[tuple[str, int | None], ...]) -> Extent:
    return Extent(plate.name, plate.size, plate.subsample_size, dims, is_declared=True)
