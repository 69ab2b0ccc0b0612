"""Entries: the map from alignments to sets of sources that a provenance is made of."""

import functools
from collections.abc import Iterable, Set
from typing import Protocol, TypeVar

from ancestral.provenance.algebra.alignment import LOST, Alignment, Shape, whole
from ancestral.provenance.algebra.overlap import with_claim


class _Shaped(Protocol):
    """What stands under an alignment: a source, for one."""

    @property
    def shape(self) -> Shape: ...


S = TypeVar("S", bound=_Shaped)


def add(
    entries: dict[Alignment, frozenset[S]], alignment: Alignment, members: Set[S], shape: Shape
) -> None:
    """Add sources of a tensor of this shape; where claims overlap, what both say is kept."""
    fresh = frozenset(members)
    if fresh and not entries:
        entries[alignment] = fresh
        return
    known = [(claim, present & fresh) for claim, present in entries.items() if present & fresh]
    claims: dict[S, tuple[Alignment, ...]] = {}
    for claim, both in known:
        for source in both:
            claims[source] = (*claims.get(source, ()), claim)
    for source, before in claims.items():
        after = with_claim(before, alignment)
        if after is not before:
            after = tuple(whole(claim, shape, source.shape) for claim in after)
            for claim in before:
                if claim not in after:
                    left = entries[claim] - {source}
                    entries[claim] = left
                    if not left:
                        del entries[claim]
            for claim in after:
                entries[claim] = entries.get(claim, frozenset()) | {source}
    rest = fresh.difference(claims) if claims else fresh
    if rest:
        present = entries.get(alignment)
        entries[alignment] = rest if present is None else present | rest


def by_index(
    entries: Iterable[tuple[Alignment, frozenset[S]]], d: int
) -> dict[int, list[tuple[Alignment, frozenset[S]]]]:
    """Return entries by the one index along a dimension that they are at, -1 if more."""
    found: dict[int, list[tuple[Alignment, frozenset[S]]]] = {}
    for entry in entries:
        at = next((a for i, a, b in entry[0].here if i == d and b - a == 1), -1)
        found.setdefault(at, []).append(entry)
    return found


@functools.lru_cache(maxsize=4096)
def leading(source: Shape, value: Shape) -> Alignment:
    """Return the alignment of a value whose leading dimensions are those of its source."""
    return Alignment(
        tuple(
            d if d < len(source) and size == source[d] and size != 1 else LOST
            for d, size in enumerate(value)
        )
    )


def common_shape(shape: Shape, *others: Shape) -> Shape:
    """Return the shape that some shapes broadcast to; torch asks of each size whether it is one.

    Raises:
        RuntimeError: if they do not.
    """
    whole = tuple(shape)
    for other in map(tuple, others):
        if other == whole:
            continue
        last = zip(reversed(whole), reversed(other), strict=False)
        if any(x != y and x != 1 and y != 1 for x, y in last):
            raise RuntimeError(f"shapes {list(whole)} and {list(other)} do not broadcast")
        whole = broadcast_shape(whole, other)
    return whole


def broadcast_shape(a: Shape, b: Shape) -> Shape:
    """Return the shape that two shapes broadcast to (they are known to)."""
    if len(a) < len(b):
        a, b = b, a
    head = len(a) - len(b)
    return a[:head] + tuple(y if x == 1 else x for x, y in zip(a[head:], b, strict=True))
