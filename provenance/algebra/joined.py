"""Joined provenances: sums of many tensors, whose sources are put together when they are asked for.

A loss that grows by a cost in each step of a program depends on more sources after each, and nobody
asks on which as long as it grows. Where both operands of a sum have one outline, so has the result,
and their sources are put together where somebody asks, or when there are too many of them.

>>> from ancestral.provenance.algebra.provenance import Source, Universe
>>> universe = Universe()
>>> a, b = (universe.of(Source(name, (3,)), (3,)) for name in "ab")
>>> both = joined(a, b)
>>> both
Provenance([3], a, b: 0)
>>> both.pattern is a.union(b).pattern
True
"""

from typing import Any

from ancestral.provenance.algebra.pattern import MOST_SOURCES, NONE, Pattern, together
from ancestral.provenance.algebra.provenance import Provenance


class Joined(Provenance):
    """The join of two provenances of one outline, whose pattern is made when it is asked for.

    Of the sources that it may have, there are no more than may stand under one alignment: so the
    outline is the same when it is made.
    """

    __slots__ = ("is_made",)

    def __init__(self, ours: Provenance, theirs: Provenance, most: int) -> None:
        """Join two of one universe that have at most so many sources together."""
        self.universe = ours.universe
        self.shape = ours.shape
        self.outline = ours.outline
        self.most = most
        self.made_from = (ours, theirs)
        self.is_made = False
        self._entries = self._members = self._kinked = None
        self._memo = NONE
        self.last_join = None

    def __getattr__(self, name: str) -> Any:
        """Make the pattern, when it is asked for first."""
        if name != "pattern":
            raise AttributeError(name)
        self.pattern = found = _together(self)
        self.is_made = True
        return found


def joined(ours: Provenance, theirs: Provenance) -> Provenance:
    """Return the join of two provenances of one universe and one outline.

    The last is kept for the operators to find; of a sum that grows none is, for that meets none
    twice.
    """
    most = ours.most + theirs.most
    found = Joined(ours, theirs, most)
    if most > MOST_SOURCES:
        return found.universe.wrap(_together(found))
    if type(ours) is not Joined:
        ours.last_join = found
    return found


def _together(found: Joined) -> Pattern:
    """Return the pattern of all that is joined, without those of what is joined on the way."""
    parts: dict[Pattern, None] = {}
    seen: set[Provenance] = set()
    pending: list[Provenance] = [found]
    while pending:
        part = pending.pop()
        if part in seen:
            continue
        seen.add(part)
        if type(part) is Joined and not part.is_made:
            pending.extend(reversed(part.made_from))
        else:
            parts[part.pattern] = None
    first, *rest = parts
    key = (together, *rest)
    known: Pattern | None = first.known.get(key)
    if known is None:
        known = together(parts)
        first.keep(key, known, by=len(key))
    return known
