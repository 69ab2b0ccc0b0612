"""Provenance: which sources a tensor depends on, and which of its dimensions still index theirs.

A provenance maps alignments to sets of sources. The alignment of a tensor of shape ``[d0, d1,
...]`` with a source is one number per dimension of the tensor: the dimension of the source that it
indexes, or `LOST`. Where dimension ``i`` is aligned with dimension ``d``, element ``n`` along
``i`` depends, of this source, only on elements ``n`` along ``d``; an aligned dimension has the
size of the source's. Losing an alignment, or gaining a source, is always sound.

Sets are bit sets of Python integers, provenances are interned in their `Universe`, and unions are
memoized, so that following one op costs about one dictionary look-up.

>>> universe = Universe()
>>> z = Source("z", (4, 3))
>>> p = universe.of(z, (4, 3))
>>> p
Provenance([4, 3], z: 0 1)
>>> p.remap((4,), (0,))                       # summed over dimension 1
Provenance([4], z: 0)
>>> p.union(p.remap((4, 3), (0, LOST)))       # where two paths disagree, the alignment is lost
Provenance([4, 3], z: 0 -)
"""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

LOST = -1
"""No dimension: in an alignment, this dimension of the tensor indexes none of the source's."""

Shape = tuple[int, ...]
Alignment = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Source:
    """Something that a value can depend on.

    `shape` is what alignments refer to; `universe` is that of the recording that drew it, if one
    did. Two kinds of sources are drawn by nobody and stand for others. A decision stands for the
    values that Python may have branched on: these are its `inflow`. A kink stands for a step
    without a useful derivative on the way from the source that is its `kink_of`.
    """

    name: str
    shape: Shape
    universe: "Universe | None" = None
    inflow: "Provenance | None" = None
    kink_of: "Source | None" = None


_started = time.time_ns()
alive: "WeakValueDictionary[tuple[int, int, int], Universe]" = WeakValueDictionary()
"""The universes that somebody still refers to, by their token."""


class Universe:
    """The sources that one recording can meet, each with its bit, and their provenances.

    `owner` is whoever the sources belong to. `state` is "open" until a gradient is asked of the
    sources, "used" from then on, and "settled" once it was taken for good. To other universes, the
    values of one that is not open are constants.

    `differentiable` is the set of the sources through which a pathwise derivative is taken: a kink
    on the way from one of them to a cost would bias it.
    """

    __slots__ = (
        "__weakref__",
        "_bits",
        "_interned",
        "_lock",
        "decisions",
        "differentiable",
        "kinks",
        "owner",
        "serial",
        "sources",
        "state",
        "token",
    )
    _serials = itertools.count()
    locate: Callable[[], str] = staticmethod(lambda: "<unknown>")
    """Tells the line of the user that is being run: a layer that knows frames does."""

    def __init__(self, owner: object = None) -> None:
        """Make an empty universe."""
        self.serial = next(Universe._serials)
        # No other has the same, be it of another process or of a later one.
        self.token = (os.getpid(), self.serial, _started)
        alive[self.token] = self
        self.owner = owner
        self.state = "open"
        self.sources: list[Source] = []
        self.decisions: Any = None  # what Python may have branched on: see `control`
        self.differentiable = 0
        self.kinks: dict[Source, Source] = {}  # by the source that they stand for
        self._lock = threading.Lock()
        self._bits: dict[Source, int] = {}
        self._interned: dict[tuple[Shape, tuple[tuple[Alignment, int], ...]], Provenance] = {}

    @property
    def seniority(self) -> tuple[bool, bool, int]:
        """Order universes by which of two adopts the other's sources: the greater does."""
        return (self.state == "open", self.owner is not None, self.serial)

    def bit(self, source: Source) -> int:
        """Return the bit of `source`, met now or before."""
        bit = self._bits.get(source)
        if bit is None:
            with self._lock:  # threads that share a recording may meet one at once
                bit = self._bits.get(source)
                if bit is None:
                    bit = 1 << len(self.sources)
                    self.sources.append(source)
                    self._bits[source] = bit
        return bit

    def members(self, bits: int) -> Iterator[Source]:
        """Yield the sources in a bit set, oldest first."""
        return (self.sources[index] for index in indices(bits))

    def closure(self, bits: int) -> int:
        """Return a bit set with all that the decisions in it rest on, directly or not."""
        seen, pending = 0, bits
        while pending:
            new, pending = pending & ~seen, 0
            seen |= new
            for source in self.members(new):
                if source.inflow is not None and source.universe is self:
                    pending |= source.inflow.bits
        return seen

    def origins(self, bits: int) -> Iterator[Source]:
        """Yield the sources in a bit set, oldest first, decisions replaced by what they rest on."""
        found: list[Source] = []
        for source in self.members(self.closure(bits)):
            if source.inflow is None and source.kink_of is None:
                found.append(source)
            elif source.inflow is not None and source.universe is not self:
                found.extend(source.inflow.sources)  # adopted from another recording
        return iter(dict.fromkeys(found))

    def kink_of(self, source: Source) -> Source:
        """Return the kink of a source."""
        found = self.kinks.get(source)
        if found is None:
            name = f"the kink of {source.name!r} at {Universe.locate()}"
            found = self.kinks[source] = Source(name, source.shape, self, kink_of=source)
        return found

    def intern(self, shape: Shape, entries: dict[Alignment, int]) -> "Provenance":
        """Return the one provenance with this shape and these entries."""
        key = (shape, tuple(sorted(item for item in entries.items() if item[1])))
        found = self._interned.get(key)
        if found is None:
            found = self._interned[key] = Provenance(self, *key)
        return found

    def of(self, source: Source, shape: Shape) -> "Provenance":
        """Return the provenance of the value of `source`, a tensor of shape `shape`.

        The leading dimensions of the value are those of the source; what follows is an event.
        """
        alignment = tuple(
            d if d < len(source.shape) and size == source.shape[d] and size != 1 else LOST
            for d, size in enumerate(shape)
        )
        return self.intern(shape, {alignment: self.bit(source)})

    def adopt(self, foreign: "Provenance") -> "Provenance | None":
        """Return `foreign`, of another universe, with this universe's bits; None if constant.

        A bit of the other universe may itself stand for a source that it adopted from a third.
        """
        if foreign.universe.state != "open":
            return None
        entries: dict[Alignment, int] = {}
        for alignment, bits in foreign.entries:
            for source in foreign.universe.members(bits):
                entries[alignment] = entries.get(alignment, 0) | self.bit(source)
        return self.intern(foreign.shape, entries)


class Provenance:
    """An interned, immutable map from alignment to a bit set of sources, for one shape.

    Every source stands under exactly one alignment. Equality is identity.
    """

    __slots__ = ("_calls", "_kinked", "_memo", "bits", "entries", "shape", "universe")

    def __init__(
        self, universe: Universe, shape: Shape, entries: tuple[tuple[Alignment, int], ...]
    ) -> None:
        """Make a provenance; only `Universe.intern` does."""
        self.universe = universe
        self.shape = shape
        self.entries = entries
        self.bits = 0
        for _, bits in entries:
            self.bits |= bits
        self._calls: dict[Any, Provenance | None] | None = None
        self._kinked: Provenance | None = None
        # Joins by the other provenance, remaps by their shape and dimensions.
        self._memo: dict[Provenance | tuple[Shape, Alignment], Provenance] = {}

    @property
    def calls(self) -> "dict[Any, Provenance | None]":
        """What calls whose first operand has this provenance gave: see `inference.infer`."""
        if self._calls is None:
            self._calls = {}
        return self._calls

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources, oldest first; what decisions and kinks stand for, not they themselves."""
        return tuple(self.universe.origins(self.bits))

    def remap(self, shape: Shape, dims: Alignment) -> "Provenance":
        """Return the provenance of a tensor whose dimension ``i`` indexes our ``dims[i]``.

        A dimension that changes its size is lost: it no longer indexes element by element.
        """
        key = (shape, dims)
        found = self._memo.get(key)
        if found is None:
            old = self.shape
            kept = tuple(
                d if d != LOST and old[d] == size else LOST
                for d, size in zip(dims, shape, strict=True)
            )
            entries: dict[Alignment, int] = {}
            for alignment, bits in self.entries:
                moved = tuple(LOST if d == LOST else alignment[d] for d in kept)
                entries[moved] = entries.get(moved, 0) | bits
            found = self._memo[key] = self.universe.intern(shape, entries)
        return found

    def lost(self, shape: Shape) -> "Provenance":
        """Return the provenance of a tensor that depends on our sources we know not how."""
        return self.remap(shape, (LOST,) * len(shape))

    def kinked(self) -> "Provenance":
        """Return the provenance after a step that has no useful derivative."""
        if not self.bits & self.universe.differentiable:
            return self
        if self._kinked is None:
            bits = 0
            for source in self.universe.members(self.bits & self.universe.differentiable):
                bits |= self.universe.bit(self.universe.kink_of(source))
            entries = dict(self.entries)
            merge(entries, (LOST,) * len(self.shape), bits)
            self._kinked = self.universe.intern(self.shape, entries)
        return self._kinked

    def broadcast(self, shape: Shape) -> "Provenance":
        """Return the provenance of ourselves broadcast to `shape`: dimensions meet at the right."""
        if shape == self.shape:
            return self
        ours = len(self.shape)
        return self.remap(shape, (LOST,) * (len(shape) - ours) + tuple(range(ours)))

    def union(self, other: "Provenance") -> "Provenance":
        """Return the join with a provenance of the same shape.

        Where both know a source with different alignments, only what they agree on is kept.
        """
        if self is other:
            return self
        found = self._memo.get(other)
        if found is None:
            if self.universe is not other.universe:
                return _across(self, other)  # not memoized: it would keep the older universe
            entries = dict(self.entries)
            for alignment, bits in other.entries:
                merge(entries, alignment, bits)
            found = self._memo[other] = self.universe.intern(self.shape, entries)
        return found

    def join(self, other: "Provenance") -> "Provenance":
        """Return the union of both, broadcast to their common shape."""
        found = self._memo.get(other)
        if found is None:
            shape = broadcast_shape(self.shape, other.shape)
            found = self.broadcast(shape).union(other.broadcast(shape))
            if self.universe is other.universe:
                self._memo[other] = found
        return found

    def __repr__(self) -> str:
        """Show the shape and, for each source, the dimension that each dimension indexes."""
        rows = "; ".join(
            f"{', '.join(source.name for source in self.universe.members(bits))}: "
            + (" ".join("-" if d == LOST else str(d) for d in alignment) or "scalar")
            for alignment, bits in self.entries
        )
        return f"Provenance({list(self.shape)}, {rows})"


def indices(bits: int) -> Iterator[int]:
    """Yield the positions of the bits that are set, lowest first."""
    while bits:
        low = bits & -bits
        yield low.bit_length() - 1
        bits ^= low


def meet(a: Alignment, b: Alignment) -> Alignment:
    """Return what two alignments of one tensor with one source both claim."""
    return tuple(x if x == y else LOST for x, y in zip(a, b, strict=True))


def merge(entries: dict[Alignment, int], alignment: Alignment, bits: int) -> None:
    """Add a set of members under an alignment; those already known keep what both claim."""
    moved: list[tuple[Alignment, int]] = []
    for known, present in list(entries.items()):
        both = present & bits
        if both:
            bits ^= both
            agreed = meet(known, alignment)
            if agreed != known:
                entries[known] = present ^ both
                moved.append((agreed, both))
    for target, members in [*moved, (alignment, bits)]:
        if members:
            entries[target] = entries.get(target, 0) | members


def broadcast_shape(a: Shape, b: Shape) -> Shape:
    """Return the shape that two shapes broadcast to (they are known to)."""
    if len(a) < len(b):
        a, b = b, a
    head = len(a) - len(b)
    return a[:head] + tuple(y if x == 1 else x for x, y in zip(a[head:], b, strict=True))


def _across(a: Provenance, b: Provenance) -> Provenance:
    """Return the union of provenances of two universes, in that of the younger open recording.

    If the other universe is no longer open, its sources are constants.
    """
    old, young = sorted((a, b), key=lambda provenance: provenance.universe.seniority)
    adopted = young.universe.adopt(old)
    return young if adopted is None else young.union(adopted)
