"""Mixing: which op lost a dimension along which elements had stayed apart, and where.

Provenances are shared by all calls of a kind, and so is what is noted here: at the first call that
mixes a dimension, the op and the line of the user. A later explanation walks back from the
provenance of a cost to what it was made from, until it meets the step that lost the dimension.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ancestral.provenance.algebra import Provenance, Source, Universe
from ancestral.provenance.alignment import LOST, Alignment, keeps


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
        for dim in claim.dims:
            kept.update((dim,) if isinstance(dim, int) else (d for d, _ in dim))
        found = frozenset(kept) if found is None else found & kept
    return (found or frozenset()) - {LOST}


def kept(found: Provenance) -> dict[Source, frozenset[int]]:
    """Return for each source, as it stands in a provenance, its dimensions that stay apart."""
    if found.kept is None:
        claims: dict[Source, list[Alignment]] = {}
        for alignment, members in found.entries:
            for source in members:
                claims.setdefault(source, []).append(alignment)
        found.kept = {source: separate(known) for source, known in claims.items()}
    return found.kept


def note(op: str, result: Provenance, operands: Iterable[Provenance]) -> None:
    """Note that a result was made from operands, and that the op mixed what it mixed of them."""
    for operand in operands:
        if operand is result or operand.universe is not result.universe:
            continue
        if operand not in result.made_from and len(result.made_from) < MOST_NOTED:
            result.made_from.append(operand)
        if _mixes(operand, result):
            noted = result.universe.mixes.setdefault((operand, result), [])
            mix = Mix(op, Universe.locate())
            if mix not in noted and len(noted) < MOST_NOTED:
                noted.append(mix)


def joined(op: str, ours: Provenance, theirs: Provenance) -> Provenance:
    """Return the join of the provenances of two operands, and note what the op mixed."""
    found = ours.join(theirs)
    note(op, found, (ours, theirs))
    return found


def _mixes(operand: Provenance, result: Provenance) -> bool:
    alignments = {alignment for alignment, _ in operand.entries}
    if alignments == {alignment for alignment, _ in result.entries}:
        return False
    if not any(map(keeps, alignments)):
        return False
    after = kept(result)
    return any(
        source in after and not dims <= after[source] for source, dims in kept(operand).items()
    )


def mixes_of(found: Provenance, source: Source, dim: int) -> tuple[Mix, ...]:
    """Return the ops that mixed a dimension of a source on the way to a provenance.

    None are returned where the dimension stayed separate, or was never so.
    """
    return tuple(dict.fromkeys(_mixed(found, source, dim, set())))


def _mixed(
    found: Provenance, source: Source, dim: int, seen: set[tuple[Provenance, Source, int]]
) -> Iterator[Mix]:
    pending = [(found, source, dim)]
    while pending:
        where = pending.pop()
        if where in seen:
            continue
        seen.add(where)
        result, known, d = where
        after = kept(result)
        if known not in after:
            pending.extend(_behind(result, known, d))
            continue
        for operand in result.made_from:
            before = kept(operand)
            if known in before and d in before[known] and d not in after[known]:
                yield from result.universe.mixes.get((operand, result), ())
            elif known in before and d not in before[known]:
                pending.append((operand, known, d))


def _behind(result: Provenance, source: Source, d: int) -> Iterator[tuple[Provenance, Source, int]]:
    """Yield where to look for a source that others stand for."""
    for member in result.members:
        if member.inflow is None or member.is_decision:
            continue
        if source not in result.universe.closure([member]):
            continue
        carried = member.inflow
        for alignment, members in carried.entries:
            if source in members and d in separate([alignment]):
                for i, dim in enumerate(alignment.dims):
                    if dim == d:
                        yield result, member, i
            else:
                yield carried, source, d
