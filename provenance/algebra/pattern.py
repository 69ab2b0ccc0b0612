"""Pattern: what provenances of recordings that are alike have in common.

What a rule answers depends on which sources a tensor depends on and how, not on what they are: two
recordings whose sources have the same shapes in the same order have the same answers. So these are
found on patterns, in which slots stand for sources, and kept for the recordings of a thread: a
second step of the same program finds all by lookup, and one that differs anywhere meets other
slots, shapes or arguments, and so other patterns.

>>> patterns = Patterns()
>>> z = patterns.of(patterns.slot(0, (4, 3)), (4, 3))
>>> z.remap((4,), (0,)) is z.remap((4,), (0,))
True
>>> z.union(z.remap((4, 3), (0, LOST))).entries[0][0].dims
(0, -1)
"""

import threading
from collections.abc import Iterable
from typing import Any, TypeVar

from ancestral.provenance.algebra.alignment import (
    LOST,
    Alignment,
    Regroup,
    Shape,
    Step,
    apply,
    as_alignment,
    fit,
    nothing_kept,
    whole,
)
from ancestral.provenance.algebra.alignment_map import add, broadcast_shape, by_index, leading
from ancestral.provenance.algebra.lifetime import Recent
from ancestral.provenance.algebra.outline import Outline, Outlines

T = TypeVar("T")

MOST_KEPT = 2**16
"""Answers that are kept for later recordings of a thread; with more, all are forgotten."""
MOST_PLANNED = 2**14
"""The sites and terms of the structures that are kept: of those used last."""
MOST_SOURCES = 32
"""Under one alignment; with more, they are gathered behind one that stands for them."""
_FEW = 8  # entries, which are looked at one by one
NONE: dict[Any, Any] = {}
"""Stands for a dictionary that is made when something is put into it: nothing is put into this."""


class Slot:
    """What stands for a source: its number, in the order they were met, and its shape.

    There is one for each pair: equality is identity. `drawn` is the pattern of the value of the
    source, of the shape that was asked for last; `alone` are the patterns of it alone, by their
    outline, and `first` is the first of them: most have no other.
    """

    __slots__ = ("alone", "drawn", "first", "number", "shape")

    def __init__(self, number: int, shape: Shape) -> None:
        self.number = number
        self.shape = shape
        self.drawn: Pattern | None = None
        self.first: Pattern | None = None
        self.alone: dict[Outline, Pattern] = NONE


Slots = frozenset[Slot]
Places = dict[Alignment, Slots]


class Answer:
    """What a rule answered for a call: of what pattern its result is, None for a constant.

    Besides, whether the step has no useful derivative, what the op is called, and the patterns of
    its operands. It is kept under the function, the arguments that a rule can see and the patterns
    of those that are tracked. Where that is one operand whose sources stand under one alignment,
    the answer is an outline, and is kept under that of the operand; `is_same` says that it is that
    one. `linear` is what is kept of the linear step by which the result was made, where that
    follows from these. `mixed` is the call of the user that mixed elements last: its code, the
    offset there, and what is noted of it.
    """

    __slots__ = ("is_kink", "is_same", "linear", "mixed", "op", "operands", "result")

    def __init__(
        self,
        result: "Pattern | Outline | None",
        is_kink: bool,
        op: str,
        operands: "Iterable[Pattern]" = (),
        is_same: bool = False,
    ) -> None:
        self.result = result
        self.is_kink = is_kink
        self.is_same = is_same
        self.op = op
        self.operands = tuple(dict.fromkeys(operands))
        self.linear: Any = None
        self.mixed: Any = None


class Patterns:
    """The patterns that the recordings of a thread have met, and what was found out of them.

    `structures` is what layers above found out of whole recordings.
    """

    def __init__(self) -> None:
        self.count = 0
        self.structures = Recent(MOST_PLANNED)
        self.slots: dict[tuple[int, Shape], Slot] = {}
        self.outlines = Outlines(self.grow)
        self._interned: dict[Shape, dict[Any, Pattern]] = {}
        self._lock = threading.Lock()

    def slot(self, number: int, shape: Shape) -> Slot:
        """Return what stands for a source of this number and shape."""
        key = (number, shape)
        found = self.slots.get(key)
        if found is None:
            found = self.slots.setdefault(key, Slot(number, shape))
            self.grow()
        return found

    def intern(self, shape: Shape, entries: Places) -> "Pattern":
        """Return the one pattern with this shape and these entries, none of them empty."""
        pairs = tuple(entries.items())
        if len(pairs) == 1 and len(pairs[0][1]) == 1:
            ((alignment, (slot,)),) = pairs
            return self.of_one(slot, self.outlines.of(shape, alignment))
        # One entry is the most frequent: it is its own key, without a further object.
        key = pairs[0] if len(pairs) == 1 else frozenset(pairs)
        alike = self._interned.get(shape)
        if alike is None:
            alike = self._interned.setdefault(shape, {})
        found = alike.get(key)
        if found is None:
            outline = self.outlines.of(shape, pairs[0][0]) if len(pairs) == 1 else None
            found = alike.setdefault(key, Pattern(self, shape, pairs, outline))
            self.grow(len(pairs))
        return found

    def of(self, slot: Slot, shape: Shape) -> "Pattern":
        """Return the pattern of the value of a source, whose leading dimensions are its own."""
        found = slot.drawn
        if found is None or found.shape != shape:
            found = self.of_one(slot, self.outlines.of(shape, leading(slot.shape, shape)))
            slot.drawn = found
        return found

    def of_one(self, slot: Slot, outline: Outline) -> "Pattern":
        """Return the one pattern of a tensor of this outline that depends on one source."""
        first = slot.first
        if first is not None and first.outline is outline:
            return first
        found = slot.alone.get(outline)
        return self._of_one(slot, outline) if found is None else found

    def _of_one(self, slot: Slot, outline: Outline) -> "Pattern":
        with self._lock:  # threads that share a recording may meet it at once
            if slot.first is None:
                found = slot.first = Pattern(self, outline.shape, slot, outline)
            elif slot.first.outline is outline:
                return slot.first
            else:
                if slot.alone is NONE:
                    slot.alone = {}
                made = Pattern(self, outline.shape, slot, outline)
                found = slot.alone.setdefault(outline, made)
        self.grow()
        return found

    def depending(self, slots: Slots, shape: Shape) -> "Pattern":
        """Return the pattern of a tensor that depends on sources we know not how."""
        return self.intern(shape, {nothing_kept(len(shape)): slots})

    def grow(self, by: int = 1) -> None:
        """Count what is kept; with too much of it, recordings to come begin anew."""
        self.count += by
        if self.count > MOST_KEPT and _thread.patterns is self:
            _thread.patterns = None


class _Thread(threading.local):
    patterns: Patterns | None = None


_thread = _Thread()


def of_thread() -> Patterns:
    """Return the patterns that the recordings of this thread share."""
    if _thread.patterns is None:
        _thread.patterns = Patterns()
    return _thread.patterns


def forget() -> None:
    """Let the recordings of this thread to come begin anew: a rule is another one than before."""
    _thread.patterns = None


class Pattern:
    """An interned, immutable map from alignments to sets of slots, for one shape.

    Equality is identity.
    """

    __slots__ = (
        "_entries",
        "_members",
        "_slices",
        "indexed",
        "is_wide",
        "joins",
        "kept",
        "known",
        "mixing",
        "outline",
        "patterns",
        "shape",
        "size",
    )

    def __init__(
        self,
        patterns: Patterns,
        shape: Shape,
        of: Slot | tuple[tuple[Alignment, Slots], ...],
        outline: Outline | None,
    ) -> None:
        """Make a pattern, of one slot or of entries; only `Patterns` does."""
        self.patterns = patterns
        self.shape = shape
        self.outline = outline
        # Most depend on one source, and nobody looks at them: what there is to see is made anew.
        self._entries: tuple[tuple[Alignment, Slots], ...] | None = None
        self._members: Slots | Slot
        self.is_wide, self.size = False, 1
        if isinstance(of, Slot):
            self._members = of
        else:
            self._entries = of
            members = [slots for _, slots in of]
            self._members = members[0] if len(members) == 1 else frozenset[Slot]().union(*members)
            self.size = len(self._members)
            if self.size > MOST_SOURCES:
                self.is_wide = any([len(slots) > MOST_SOURCES for slots in members])
        # Most patterns have no part in these: they share one that is empty.
        self.joins: dict[Pattern, Pattern] = NONE
        # Remaps by their shape and step; the answers for calls whose first operand has this
        # pattern, see `propagate`; whether one of the operands was mixed, by them all.
        self.known: dict[tuple[Any, ...], Any] = NONE
        # See `alignment_loss`.
        self.kept: dict[Slot, frozenset[int]] | None = None
        self.indexed: dict[Slot, frozenset[int]] | None = None
        self.mixing: dict[Pattern, bool] = NONE
        self._slices: dict[int, dict[int, list[tuple[Alignment, Slots]]]] | None = None

    @property
    def members(self) -> Slots:
        """All slots, under whatever alignment."""
        members = self._members
        return frozenset((members,)) if isinstance(members, Slot) else members

    @property
    def entries(self) -> tuple[tuple[Alignment, Slots], ...]:
        """The slots by the alignment with them."""
        if self._entries is not None:
            return self._entries
        assert self.outline is not None
        return ((self.outline.alignment, self.members),)

    def keep(self, key: tuple[Any, ...], found: Any, by: int = 1) -> None:
        """Keep something that was found out of it, which counts as so much."""
        if self.known is NONE:
            self.known = {}
        self.known[key] = found
        self.patterns.grow(by)

    def under(self, outline: Outline) -> "Pattern":
        """Return the pattern of the same sources, all under one alignment."""
        if outline is self.outline:
            return self
        if isinstance(self._members, Slot):
            return self.patterns.of_one(self._members, outline)
        return self.patterns.intern(outline.shape, {outline.alignment: self.members})

    def remap(self, shape: Shape, step: Step) -> "Pattern | None":
        """Return the pattern of the result of a step, None where no source of ours reaches it.

        A dimension that changes its size is lost: it no longer indexes element by element.
        """
        if self.outline is not None:
            moved = self.outline.remap(shape, step)
            return None if moved is None else self.under(moved)
        key = (shape, step)
        if key in self.known:
            known: Pattern | None = self.known[key]
            return known
        fitted = step if isinstance(step, Regroup) else fit(as_alignment(step), self.shape, shape)
        entries: Places = {}
        met = self.entries if len(self.entries) < _FEW else self._met(fitted)
        for alignment, members in met:
            claim = apply(fitted, alignment)
            if claim is not None:
                add(entries, whole(claim, shape), members, shape)
        found = self.patterns.intern(shape, entries) if entries else None
        self.keep(key, found)
        return found

    def _met(self, step: Alignment | Regroup) -> Iterable[tuple[Alignment, Slots]]:
        """Return the entries that a step can meet: of many, those at the index that it selects."""
        for d, first, end in () if isinstance(step, Regroup) else step.there:
            if end - first == 1:
                at = self._at(d)
                return [*at.get(first, ()), *at.get(-1, ())]
        return self.entries

    def _at(self, d: int) -> dict[int, list[tuple[Alignment, Slots]]]:
        """Return the entries by the one index along a dimension that they are at, -1 if more."""
        if self._slices is None:
            self._slices = {}
        if d not in self._slices:
            self._slices[d] = by_index(self.entries, d)
        return self._slices[d]

    def lost(self, shape: Shape) -> "Pattern":
        """Return the pattern of a tensor that depends on our sources we know not how."""
        if self.outline is not None:
            return self.under(self.outline.lost(shape))
        key = (shape, None)
        found: Pattern | None = self.known.get(key)
        if found is None:
            found = self.patterns.depending(self.members, shape)
            self.keep(key, found)
        return found

    def broadcast(self, shape: Shape) -> "Pattern":
        """Return the pattern of ourselves broadcast to `shape`: dimensions meet at the right."""
        if shape == self.shape:
            return self
        ours = len(self.shape)
        found = self.remap(shape, (LOST,) * (len(shape) - ours) + tuple(range(ours)))
        assert found is not None
        return found

    def union(self, other: "Pattern") -> "Pattern":
        """Return the join with a pattern of the same shape.

        Where both know a slot with alignments that overlap, only what they agree on is kept.
        """
        found = self if self is other else self.joins.get(other)
        return self._joined(other, together([self, other])) if found is None else found

    def join(self, other: "Pattern") -> "Pattern":
        """Return the union of both, broadcast to their common shape."""
        found = self.joins.get(other)
        if found is None:
            shape = broadcast_shape(self.shape, other.shape)
            found = self._joined(other, self.broadcast(shape).union(other.broadcast(shape)))
        return found

    def _joined(self, other: "Pattern", found: "Pattern") -> "Pattern":
        if self.joins is NONE:
            self.joins = {}
        self.joins[other] = found
        self.patterns.grow()
        return found


def together(parts: "Iterable[Pattern]") -> Pattern:
    """Return the join of patterns of one shape, at least one."""
    first, *rest = parts
    entries, members = dict(first.entries), set(first.members)
    for part in rest:
        if members.isdisjoint(part.members):
            for alignment, slots in part.entries:
                present = entries.get(alignment)
                entries[alignment] = slots if present is None else present | slots
        else:
            for alignment, slots in part.entries:
                add(entries, alignment, slots, first.shape)
        members |= part.members
    return first.patterns.intern(first.shape, entries)
