"""Claims: what is known of one value in two ways, both of which hold, put together.

What the ops of a computation keep may be less than what its meaning says.

>>> from ancestral.provenance.algebra import Source, Universe
>>> universe = Universe()
>>> z = Source("z", (4, 3))
>>> lost = universe.of(z, (4, 3)).lost((4, 3))
>>> sharpened(lost, universe.of(z, (4, 3)).remap((4, 3), (0, LOST)))
Provenance([4, 3], z: 0 -)
"""

from ancestral.provenance.algebra import LOST, Alignment, Provenance


def sharpened(found: Provenance, claimed: Provenance) -> Provenance:
    """Return the provenance of a value with all that is claimed of the same sources besides.

    No source is added and none is left out.
    """
    if found.universe is not claimed.universe:
        return found
    entries = dict(found.entries)
    entries.clear()
    for alignment, left in found.entries:
        for other, known in claimed.entries:
            both = left & known
            if both:
                left ^= both
                either = _either(alignment, other)
                entries[either] = entries[either] | both if either in entries else both
        if left:
            entries[alignment] = entries[alignment] | left if alignment in entries else left
    return found.universe.intern(found.shape, entries)


def is_whole(found: Provenance) -> bool:
    """Return whether no alignment is lost, so that nothing can be claimed besides."""
    return all(LOST not in alignment for alignment, _ in found.entries)


def _either(one: Alignment, other: Alignment) -> Alignment:
    return tuple(b if a == LOST else a for a, b in zip(one, other, strict=True))
