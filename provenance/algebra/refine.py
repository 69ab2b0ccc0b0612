"""Refinement: two sound descriptions of one value joined into a sharper one.

What the ops of a computation keep may be less than what its meaning says.

>>> from ancestral.provenance.algebra.provenance import Source, Universe
>>> universe = Universe()
>>> z = Source("z", (4, 3))
>>> lost = universe.of(z, (4, 3)).lost((4, 3))
>>> sharpened(lost, universe.of(z, (4, 3)).remap((4, 3), (0, LOST)))
Provenance([4, 3], z: 0 -)
"""

from ancestral.provenance.algebra.alignment import LOST, Alignment
from ancestral.provenance.algebra.pattern import Pattern, Places, Slots
from ancestral.provenance.algebra.provenance import Provenance


def sharpened(found: Provenance, claimed: Provenance) -> Provenance:
    """Return the provenance of a value with all that is claimed of the same sources besides.

    No source is added and none is left out.
    """
    if found.universe is not claimed.universe:
        return found
    key = ("sharpened", claimed.pattern)
    known: Pattern | None = found.pattern.known.get(key)
    if known is None:
        known = _sharper(found.pattern, claimed.pattern)
        found.pattern.keep(key, known)
    return found.universe.wrap(known)


def _sharper(found: Pattern, claimed: Pattern) -> Pattern:
    entries: Places = {}
    many = _under_several(found) | _under_several(claimed)
    for alignment, members in found.entries:
        left = members
        for other, known in claimed.entries:
            both = (left & known) - many
            if both:
                left -= both
                _put(entries, _either(alignment, other), both)
        _put(entries, alignment, left)
    return found.patterns.intern(found.shape, entries)


def is_whole(found: Provenance) -> bool:
    """Return whether no dimension is lost, so that nothing can be claimed besides."""
    return all([LOST not in alignment.dims for alignment, _ in found.pattern.entries])


def _under_several(found: Pattern) -> Slots:
    """Return the sources of which different elements are aligned in different ways."""
    seen: Slots = frozenset()
    several: Slots = frozenset()
    for _, members in found.entries:
        several |= members & seen
        seen |= members
    return several


def _put(entries: Places, alignment: Alignment, members: Slots) -> None:
    if members:
        entries[alignment] = entries.get(alignment, frozenset()) | members


def _either(one: Alignment, other: Alignment) -> Alignment:
    """Return what either of two alignments without windows claims, else the first."""
    if one.here or one.there or other.here or other.there:
        return one
    return Alignment(
        tuple(b if a == LOST else a for a, b in zip(one.dims, other.dims, strict=True))
    )
