"""Alignments as relations: the pairs of elements that they mean, and a strategy to draw them."""

import itertools

from hypothesis import strategies as st

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dim, Shape, Window, relates
from ancestral.provenance.algebra.factors import Factor, merged

Pairs = set[tuple[Shape, Shape]]


def elements(shape: Shape) -> list[Shape]:
    return list(itertools.product(*map(range, shape)))


def pairs(alignment: Alignment, ours: Shape, theirs: Shape) -> Pairs:
    """Return all pairs of elements that an alignment relates, by its definition."""
    return {(x, y) for x in elements(ours) for y in elements(theirs) if relates(alignment, x, y)}


@st.composite
def windows(draw: st.DrawFn, size: int) -> tuple[int, int]:
    first = draw(st.integers(0, size - 1))
    return first, draw(st.integers(first + 1, size))


def sorted_windows(found: dict[int, tuple[int, int]], shape: Shape) -> tuple[Window, ...]:
    return tuple((d, *found[d]) for d in sorted(found) if found[d] != (0, shape[d]))


def _pieces(draw: st.DrawFn, d: int, size: int) -> list[Factor]:
    """Return a dimension as it is, or the parts of a split of it, of which some may be missing."""
    inner = draw(st.sampled_from([n for n in range(1, size + 1) if size % n == 0]))
    if inner in (1, size):
        return [Factor(d, size)]
    return [Factor(d, size // inner, inner, size), Factor(d, inner, 1, size)]


@st.composite
def alignments(draw: st.DrawFn, ours: Shape, theirs: Shape) -> Alignment:
    """Draw a relation of tensors of these shapes, of every kind that there is."""
    dims: list[Dim] = []
    here: dict[int, tuple[int, int]] = {}
    there = {d: draw(windows(n)) if draw(st.booleans()) else (0, n) for d, n in enumerate(theirs)}
    lengths = {d: end - first for d, (first, end) in there.items()}
    free = [f for d, n in lengths.items() if n > 1 for f in _pieces(draw, d, n)]
    free = draw(st.permutations(free))
    for i, size in enumerate(ours):
        taken: list[Factor] = []
        most = draw(st.sampled_from([0, 1, 1, 2]))
        length = 1
        for factor in [*free, Factor(LOST, 2)]:
            if len(taken) < most and length * factor.size <= size:
                taken.append(factor)
                length *= factor.size
        free = [factor for factor in free if factor not in taken]
        dim = merged(taken)
        if dim == LOST:
            here[i] = draw(windows(size)) if draw(st.booleans()) else (0, size)
        else:
            first = draw(st.integers(0, size - length))
            here[i] = (first, first + length)
        dims.append(dim)
    return Alignment(tuple(dims), sorted_windows(here, ours), sorted_windows(there, theirs))
