"""Alignment loss: the op and line at which a dimension of elements kept apart was mixed.

Provenances are shared by all calls of a kind, and so is what is noted here: at the first call that
mixes a dimension, the op and the line of the user. A later explanation walks back from the
provenance of a cost to what it was made from, until it meets the step that lost the dimension.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from ancestral.provenance.algebra.alignment import LOST, Alignment, keeps
from ancestral.provenance.algebra.factors import all_parts
from ancestral.provenance.algebra.joined import joined as alike
from ancestral.provenance.algebra.pattern import NONE, Pattern, Slot
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe


class Mix(NamedTuple):
    """An op that mixed elements, and the line of the user that called it."""

    op: str
    place: str

    def __str__(self) -> str:
        """Show both."""
        return f"{self.op} at {self.place}"


MOST_NOTED = 8
"""Ways to make one provenance that are kept."""


def separate(claims: Iterable[Alignment]) -> frozenset[int]:
    """Return the dimensions of a source along which its elements stay apart in every claim.

    >>> sorted(separate([Alignment((1, LOST)), Alignment((LOST, LOST), there=((1, 0, 1),))]))
    [1]
    """
    found: frozenset[int] | None = None
    for claim in claims:
        kept = {d for d, first, end in claim.there if end - first == 1}
        kept.update(all_parts(claim.dims))
        found = frozenset(kept) if found is None else found & kept
    return (found or frozenset()) - {LOST}


def indexed(claims: Iterable[Alignment]) -> frozenset[int]:
    """Return the dimensions of a source that the tensor indexes from end to end in every claim.

    Elements that are taken out or shifted stay apart, but stand no longer at their own index.
    """
    found: frozenset[int] | None = None
    for claim in claims:
        cut = {i for i, _, _ in claim.here}, {d for d, _, _ in claim.there}
        pairs = [(i, dim) for i, dim in enumerate(claim.dims) if isinstance(dim, int)]
        dims = {dim for i, dim in pairs if i not in cut[0] and dim not in cut[1]}
        found = frozenset(dims) if found is None else found & dims
    return (found or frozenset()) - {LOST}


_Dims = dict[Slot, frozenset[int]]
_Notion = Callable[[Pattern], _Dims]


def _kept(found: Pattern) -> _Dims:
    """Return for each source, as it stands in a provenance, its dimensions that stay apart."""
    if found.kept is None:
        found.kept = {slot: separate(claims) for slot, claims in _claims(found).items()}
    return found.kept


def _running(found: Pattern) -> _Dims:
    """Return for each source, as it stands in a provenance, its dimensions that are indexed."""
    if found.indexed is None:
        found.indexed = {slot: indexed(claims) for slot, claims in _claims(found).items()}
    return found.indexed


def _claims(found: Pattern) -> dict[Slot, list[Alignment]]:
    claims: dict[Slot, list[Alignment]] = {}
    for alignment, members in found.entries:
        for slot in members:
            claims.setdefault(slot, []).append(alignment)
    return claims


Kept = dict[Source, frozenset[int]]
Notion = Callable[[Provenance], Kept]


def kept(found: Provenance) -> Kept:
    """Return for each source, as it stands in a provenance, its dimensions that stay apart."""
    return {found.universe.at(slot): dims for slot, dims in _kept(found.pattern).items()}


def running(found: Provenance) -> Kept:
    """Return for each source, as it stands in a provenance, its dimensions that are indexed."""
    return {found.universe.at(slot): dims for slot, dims in _running(found.pattern).items()}


def note(op: str, result: Provenance, operands: Sequence[Provenance]) -> None:
    """Note that a result was made from operands, and that the op mixed what it mixed of them."""
    for operand in operands:
        if operand is result or operand.universe is not result.universe:
            continue
        made = result.made_from
        if operand not in made and len(made) < MOST_NOTED:
            result.made_from = (*made, operand)
        mine, theirs = operand.outline, result.outline
        if mine is not None and theirs is not None and mine.alignment == theirs.alignment:
            continue  # the most frequent case
        may_mix = result.pattern.mixing.get(operand.pattern)
        if may_mix is None:
            may_mix = _may_mix(operand.pattern, result.pattern)
        if may_mix and _is_mixed(operand, result, operands):
            note_mixed(op, result, operand)


def note_mixed(op: str, result: Provenance, operand: Provenance, known: Mix | None = None) -> Mix:
    """Note that an op mixed elements of an operand; return that, or what is known of it."""
    noted = result.universe.mixes.setdefault((operand, result), [])
    mix = known or Mix(op, Universe.locate())
    if mix not in noted and len(noted) < MOST_NOTED:
        noted.append(mix)
    return mix


def mixes_alone(operand: Pattern, result: Pattern, is_made: bool) -> bool:
    """Return whether a step mixes elements of its only operand, which was made of others or not."""
    mine, theirs = operand.outline, result.outline
    if mine is not None and theirs is not None and mine.alignment == theirs.alignment:
        return False
    return _mixes(operand, result, [operand] if is_made else [])


def joined(op: str, ours: Provenance, theirs: Provenance) -> Provenance:
    """Return the join of the provenances of two operands, and note what the op mixed."""
    outline = ours.outline
    if outline is not None and outline is theirs.outline and ours.universe is theirs.universe:
        return alike(ours, theirs)  # nothing is mixed
    found = ours.join(theirs)
    note(op, found, (ours, theirs))
    return found


def _may_mix(operand: Pattern, result: Pattern) -> bool:
    """Return whether a dimension is lost on the way, whatever the other operands are."""
    if result.mixing is NONE:
        result.mixing = {}
    found = result.mixing[operand] = any(True for _ in _lost(operand, result))
    result.patterns.grow()
    return found


def _is_mixed(operand: Provenance, result: Provenance, operands: Sequence[Provenance]) -> bool:
    """Return whether a dimension is lost that no operand had lost before."""
    ours = [each for each in operands if each.universe is result.universe]
    made = [each.pattern for each in ours if each.made_from]
    if len(ours) > MOST_NOTED:
        return _mixes(operand.pattern, result.pattern, made)
    key = (operand.pattern, *made)
    known: bool | None = result.pattern.known.get(key)
    if known is None:
        known = _mixes(operand.pattern, result.pattern, made)
        result.pattern.keep(key, known)
    return known


def _lost(operand: Pattern, result: Pattern) -> Iterator[tuple[_Notion, Slot, frozenset[int]]]:
    """Yield the sources of which dimensions are lost, and in which sense."""
    if len(operand.entries) <= MOST_NOTED:  # of a stack of many, only what is taken is looked at
        alignments = {alignment for alignment, _ in operand.entries}
        is_within = all(alignment in alignments for alignment, _ in result.entries)
        if is_within and alignments == {alignment for alignment, _ in result.entries}:
            return
        if not any(map(keeps, alignments)):
            return
    for notion in (_kept, _running):
        before, after = notion(operand), notion(result)
        for slot in min(before, after, key=len):  # of many that are stacked, those that are taken
            dims = before.get(slot, frozenset())
            lost = dims - after.get(slot, dims)
            if lost:
                yield notion, slot, lost


def _mixes(operand: Pattern, result: Pattern, made: list[Pattern]) -> bool:
    for notion, slot, lost in _lost(operand, result):
        dims = notion(operand)[slot]
        # What a layer wrote of it into its statistics was not made of any operand.
        others = [notion(other).get(slot, dims) for other in made]
        if any(all(d in other for other in others) for d in lost):
            return True
    return False


def mixes_of(found: Provenance, source: Source, dim: int, notion: Notion = kept) -> tuple[Mix, ...]:
    """Return the ops that mixed a dimension of a source on the way to a provenance.

    None are returned where the dimension stayed separate, or was never so. `notion` says what that
    is: by default, that its elements stay apart.
    """
    return tuple(dict.fromkeys(_mixed(found, source, dim, notion)))


def _mixed(found: Provenance, source: Source, dim: int, notion: Notion) -> Iterator[Mix]:
    seen: set[tuple[Provenance, Source, int]] = set()
    pending = [(found, source, dim)]
    while pending:
        where = pending.pop()
        if where in seen:
            continue
        seen.add(where)
        result, known, d = where
        after = notion(result)
        if known not in after:
            pending.extend(_behind(result, known, d))
            continue
        ways = [(operand, notion(operand).get(known)) for operand in result.made_from]
        # Provenances are shared: one may have been made of itself, by other calls.
        mixed = [
            o
            for o, dims in ways
            if dims is not None and d not in dims and o.made_from and (o, known, d) not in seen
        ]
        pending.extend((operand, known, d) for operand in mixed)
        if not mixed:  # where an operand was mixed before, to add it to others mixes nothing more
            for operand, dims in ways:
                if dims is not None and d in dims:
                    yield from result.universe.mixes.get((operand, result), ())


def _behind(result: Provenance, source: Source, d: int) -> Iterator[tuple[Provenance, Source, int]]:
    """Yield where to look for a source that others stand for."""
    for member in result.members:
        if member.stands_for is None or member.is_decision:
            continue
        if source not in result.universe.closure([member]):
            continue
        carried = member.stands_for
        for alignment, members in carried.entries:
            if source in members and d in separate([alignment]):
                for i, dim in enumerate(alignment.dims):
                    if dim == d:
                        yield result, member, i
            else:
                yield carried, source, d
