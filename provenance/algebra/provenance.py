"""Provenance: the sources that a tensor depends on, and an alignment with each of them.

A provenance maps alignments (see `ancestral.provenance.algebra.alignment`) to sets of sources. A
source may stand under several, as long as they share no pair of elements. Losing an alignment, or
gaining a source, is always sound.

Provenances are interned in their `Universe`, and what is done to them is memoized, by the recording
and for those to come (see `ancestral.provenance.algebra.pattern`), so that following one op costs
about one dictionary look-up. Sets stay small: more than `MOST_SOURCES` under one alignment
are gathered behind one source that stands for them, a junction.

>>> universe = Universe()
>>> z = Source("z", (4, 3))
>>> p = universe.of(z, (4, 3))
>>> p
Provenance([4, 3], z: 0 1)
>>> p.remap((4,), (0,))                       # summed over dimension 1
Provenance([4], z: 0)
>>> p.union(p.remap((4, 3), (0, -1)))         # where two paths disagree, the alignment is lost
Provenance([4, 3], z: 0 -)
"""

import threading
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ancestral.provenance.algebra.alignment import Alignment, Shape, Step, nothing_kept, shown
from ancestral.provenance.algebra.alignment_map import add, broadcast_shape
from ancestral.provenance.algebra.lifetime import Alive, Lifetime
from ancestral.provenance.algebra.outline import Outline
from ancestral.provenance.algebra.pattern import (
    NONE,
    Pattern,
    Slot,
    of_thread,
    together,
)


@dataclass(eq=False, slots=True)
class Source:
    """Something that a value can depend on.

    `shape` is what alignments refer to; `universe` is that of the recording that drew it, if one
    did. Four kinds of sources are drawn by nobody and stand for others, their `stands_for`. A
    decision stands for the values that Python may have branched on, a junction for many sources of
    one tensor, of its shape, one that `is_named` for what a value was computed from that the user
    gave a name. A kink stands for a step without a useful derivative on the way from the source
    that is its `kink_of`. A source that `is_known` has the same value in every run, as data has: no
    decision that rests on it alone is one of chance. One that `is_confined` stands for many values
    at once, between which Python cannot decide.

    Nobody changes one; it is not frozen, since each draw makes one, and that takes three times as
    long.
    """

    name: str
    shape: Shape
    universe: "Universe | None" = None
    stands_for: "Provenance | None" = None
    is_decision: bool = False
    kink_of: "Source | None" = None
    is_known: bool = False
    is_confined: bool = False
    is_named: bool = False


Sources = frozenset[Source]
Entries = dict[Alignment, Sources]


alive: "Alive[Universe]" = Alive()
"""The universes that somebody still refers to."""


class Universe(Lifetime):
    """The sources that one recording can meet, in the order they were met, and their provenances.

    `differentiable` are the sources through which a pathwise derivative is taken: a kink on the way
    from one of them to a cost would bias it.
    """

    __slots__ = (
        "__weakref__",
        "_listed",
        "_lock",
        "_slots",
        "_wrapped",
        "decisions",
        "differentiable",
        "kinks",
        "mixes",
        "patterns",
        "sources",
    )
    locate: Callable[[], str] = staticmethod(lambda: "<unknown>")
    """Tells the line of the user that is being run: a layer that knows frames does."""

    def __init__(self, owner: object = None) -> None:
        super().__init__(owner)
        alive.add(self)
        self.sources: dict[Source, int] = {}
        self.decisions: Any = None  # what Python may have branched on: see `control`
        self.differentiable: set[Source] = set()
        self.kinks: dict[Source, Source] = {}  # by the source that they stand for
        # The ops that mixed elements, by what they made of what: see `mixing`.
        self.mixes: dict[tuple[Provenance, Provenance], list[Any]] = {}
        self.patterns = of_thread()
        self._lock = threading.Lock()
        self._listed: list[Source] = []
        self._slots: list[Slot] = []
        self._wrapped: dict[Pattern, Provenance] = {}

    def number(self, source: Source) -> int:
        """Return the number of `source`, met now or before: the older has the lesser."""
        number = self.sources.get(source)
        return self.slot(source).number if number is None else number

    def at(self, slot: Slot) -> Source:
        """Return the source that a slot stands for."""
        return self._listed[slot.number]

    def behind(self, slots: Iterable[Slot]) -> "Sources":
        """Return the sources that slots stand for."""
        return frozenset([self._listed[slot.number] for slot in slots])

    def in_order(self, members: Iterable[Source]) -> list[Source]:
        """Return sources, the oldest first."""
        return sorted(members, key=self.number)

    def closure(self, members: Iterable[Source], stops: Container[Source] = ()) -> set[Source]:
        """Return sources with all that those among them stand for, but for what stops this."""
        seen: set[Source] = set()
        pending = list(members)
        while pending:
            source = pending.pop()
            if source not in seen:
                seen.add(source)
                if source.stands_for is None or source.universe is not self or source in stops:
                    continue
                pending.extend(source.stands_for.members)
        return seen

    def origins(self, members: Iterable[Source], stops: Container[Source] = ()) -> Iterator[Source]:
        """Yield sources, oldest first, in place of those that stand for others what they stand for.

        Those in `stops` stay themselves.
        """
        found: list[Source] = []
        for source in self.in_order(self.closure(members, stops)):
            if (source.stands_for is None and source.kink_of is None) or source in stops:
                found.append(source)
            elif source.stands_for is not None and source.universe is not self:
                found.extend(source.stands_for.sources)  # adopted from another recording
        return iter(dict.fromkeys(found))

    def kink_of(self, source: Source) -> Source:
        """Return the kink of a source."""
        found = self.kinks.get(source)
        if found is None:
            name = f"the kink of {source.name!r} at {Universe.locate()}"
            found = self.kinks[source] = Source(name, source.shape, self, kink_of=source)
            self.number(found)
        return found

    def kinked(self, members: Iterable[Source]) -> dict[Source, Source]:
        """Return the drawn sources whose kinks are among what these stand for, with the kink."""
        found: dict[Source, Source] = {}
        for kink in self.in_order(self.closure(members)):
            if kink.kink_of is not None and kink.universe is self:
                for source in self.closure([kink.kink_of]) & self.differentiable:
                    if source.stands_for is None:
                        found.setdefault(source, kink)
        return found

    def slot(self, source: Source) -> Slot:
        """Return what stands for a source in the patterns of this universe."""
        number = self.sources.get(source)
        if number is None:
            with self._lock:  # threads that share a recording may meet one at once
                number = self.sources.get(source)
                if number is None:
                    number, shape = len(self._listed), source.shape
                    known = self.patterns.slots.get((number, shape))
                    self._slots.append(known or self.patterns.slot(number, shape))
                    self._listed.append(source)
                    self.sources[source] = number
        return self._slots[number]

    def intern(self, shape: Shape, entries: Entries) -> "Provenance":
        """Return the one provenance with this shape and these entries, none of them empty."""
        places = {a: frozenset(map(self.slot, members)) for a, members in entries.items()}
        return self.wrap(self.patterns.intern(shape, places))

    def wrap(self, pattern: Pattern) -> "Provenance":
        """Return the one provenance of a pattern, whose slots are those of our sources."""
        found = self._wrapped.get(pattern)
        if found is None:
            made = Provenance(self, pattern)
            if pattern.is_wide:
                made = self._gathered(made)
            # Threads that share a recording may make it at once: the first counts.
            found = self._wrapped.setdefault(pattern, made)
        return found

    def _gathered(self, wide: "Provenance") -> "Provenance":
        """Return the provenance of a junction that stands for many sources of one tensor."""
        junction = Source(f"a junction of {len(wide.members)}", wide.shape, self, stands_for=wide)
        if self.differentiable and wide.members & self.differentiable:
            self.differentiable.add(junction)
        return self.of(junction, wide.shape)

    def of(self, source: Source, shape: Shape) -> "Provenance":
        """Return the provenance of the value of `source`, a tensor of shape `shape`.

        The leading dimensions of the value are those of the source; what follows is an event.
        """
        slot = self.slot(source)
        pattern = slot.drawn
        if pattern is None or pattern.shape != shape:
            pattern = self.patterns.of(slot, shape)
        return self._wrapped.get(pattern) or self.wrap(pattern)

    def depending(self, members: Iterable[Source], shape: Shape) -> "Provenance":
        """Return the provenance of a tensor that depends on sources we know not how."""
        return self.wrap(self.patterns.depending(frozenset(map(self.slot, members)), shape))

    def adopt(self, foreign: "Provenance") -> "Provenance | None":
        """Return `foreign`, of another universe, in this one; None if it is constant."""
        if not foreign.universe.is_adoptable:
            return None
        for source in foreign.universe.in_order(foreign.members):
            self.number(source)
        self.differentiable |= foreign.universe.differentiable & foreign.members
        return self.intern(foreign.shape, dict(foreign.entries))


class Provenance:
    """An interned, immutable map from alignments to sets of sources, for one shape.

    Equality is identity. Of what is done to it, the pattern knows the answer.
    """

    __slots__ = (
        "_entries",
        "_kinked",
        "_members",
        "_memo",
        "last_join",
        "made_from",
        "most",
        "outline",
        "pattern",
        "shape",
        "universe",
    )

    def __init__(self, universe: Universe, pattern: Pattern) -> None:
        """Make a provenance; only `Universe.wrap` does."""
        self.universe = universe
        self.pattern = pattern
        self.shape = pattern.shape
        self.outline = pattern.outline
        self.most = pattern.size
        self.made_from: tuple[Provenance, ...] = ()  # see `alignment_loss`
        self._entries: tuple[tuple[Alignment, Sources], ...] | None = None
        self._members: Sources | None = None
        self._kinked: Provenance | None = None
        # Joins, by the other provenance; what rules make of it alone, by what they answered.
        self._memo: dict[Any, Provenance] = NONE
        # The last join with another of our outline: see `joined`.
        self.last_join: Provenance | None = None

    def keep(self, key: object, found: "Provenance") -> "Provenance":
        """Keep a join with another provenance, or what comes of an answer; return it."""
        if self._memo is NONE:
            self._memo = {}
        self._memo[key] = found
        return found

    @property
    def entries(self) -> tuple[tuple[Alignment, Sources], ...]:
        """The sources by the alignment with them."""
        if self._entries is None:
            behind = self.universe.behind
            self._entries = tuple([(a, behind(slots)) for a, slots in self.pattern.entries])
        return self._entries

    @property
    def members(self) -> Sources:
        """All sources, under whatever alignment."""
        if self._members is None:
            self._members = self.universe.behind(self.pattern.members)
        return self._members

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources, oldest first; what others stand for, not they themselves."""
        return tuple(self.universe.origins(self.members))

    def remap(self, shape: Shape, step: Step) -> "Provenance | None":
        """Return the provenance of the result of a step, None where none of ours reaches it.

        A dimension that changes its size is lost: it no longer indexes element by element.
        """
        found = self.pattern.remap(shape, step)
        return None if found is None else self.universe.wrap(found)

    def under(self, outline: Outline) -> "Provenance":
        """Return the provenance of the same sources, all under one alignment."""
        return self if outline is self.outline else self.universe.wrap(self.pattern.under(outline))

    def lost(self, shape: Shape) -> "Provenance":
        """Return the provenance of a tensor that depends on our sources we know not how."""
        return self.universe.wrap(self.pattern.lost(shape))

    def kinked(self) -> "Provenance":
        """Return the provenance after a step that has no useful derivative."""
        if not self.universe.differentiable:
            return self
        met = self.members & self.universe.differentiable
        if not met:
            return self
        if self._kinked is None:
            kinks = frozenset(self.universe.kink_of(s) for s in self.universe.in_order(met))
            entries = dict(self.entries)
            add(entries, nothing_kept(len(self.shape)), kinks, self.shape)
            self._kinked = self.universe.intern(self.shape, entries)
        return self._kinked

    def broadcast(self, shape: Shape) -> "Provenance":
        """Return the provenance of ourselves broadcast to `shape`: dimensions meet at the right."""
        return self if shape == self.shape else self.universe.wrap(self.pattern.broadcast(shape))

    def union(self, other: "Provenance") -> "Provenance":
        """Return the join with a provenance of the same shape.

        Where both know a source with alignments that overlap, only what they agree on is kept.
        """
        if self is other:
            return self
        found = self._memo.get(other)
        if found is None:
            if self.universe is not other.universe:
                return _across(self, other)  # not memoized: it would keep the older universe
            found = self.keep(other, self.universe.wrap(self.pattern.union(other.pattern)))
        return found

    def join(self, other: "Provenance") -> "Provenance":
        """Return the union of both, broadcast to their common shape."""
        found = self._memo.get(other)
        if found is None:
            if self.universe is not other.universe:
                shape = broadcast_shape(self.shape, other.shape)
                return self.broadcast(shape).union(other.broadcast(shape))
            pattern = self.pattern.joins.get(other.pattern) or self.pattern.join(other.pattern)
            found = self.keep(other, self.universe.wrap(pattern))
        return found

    def __repr__(self) -> str:
        """Show the shape and, for each source, the dimension that each dimension indexes."""
        rows = "; ".join(
            f"{', '.join(source.name for source in self.universe.in_order(members))}: "
            f"{shown(alignment)}"
            for alignment, members in self.entries
        )
        return f"Provenance({list(self.shape)}, {rows})"


def union(parts: "Iterable[Provenance]") -> Provenance:
    """Return the join of provenances of one shape, at least one."""
    alike: list[Provenance] = []  # of one universe
    for part in parts:
        if alike and part.universe is not alike[0].universe:
            alike = [_across(_together(alike), part)]
        else:
            alike.append(part)
    return _together(alike)


def _together(alike: list[Provenance]) -> Provenance:
    if len(alike) < 3:
        return alike[0].union(alike[-1])
    return alike[0].universe.wrap(together([part.pattern for part in alike]))


def _across(a: Provenance, b: Provenance) -> Provenance:
    """Return the union of provenances of two universes, in that of the younger open recording.

    If the other universe is no longer open, its sources are constants.
    """
    old, young = sorted((a, b), key=lambda provenance: provenance.universe.seniority)
    adopted = young.universe.adopt(old)
    return young if adopted is None else young.union(adopted)
