"""Alignments as relations: the pairs of elements that they mean, and a strategy to draw them."""

import itertools

from hypothesis import strategies as st

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dim, Shape, Window, relates

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


@st.composite
def alignments(draw: st.DrawFn, ours: Shape, theirs: Shape) -> Alignment:
    """Draw a relation of tensors of these shapes, of every kind that there is."""
    dims: list[Dim] = []
    here: dict[int, tuple[int, int]] = {}
    there: dict[int, tuple[int, int]] = {}
    free = [d for d, size in enumerate(theirs) if size > 1]
    for i, size in enumerate(ours):
        kind = draw(st.sampled_from(["lost", "windowed", "aligned", "merged"]))
        dims.append(LOST)
        if kind == "windowed" and size > 1:
            here[i] = draw(windows(size))
        elif kind != "lost" and size > 1 and free:
            d = draw(st.sampled_from(free))
            if kind == "aligned":
                length = draw(st.integers(1, min(size, theirs[d])))
                first, start = (draw(st.integers(0, n - length)) for n in (size, theirs[d]))
                here[i], there[d] = (first, first + length), (start, start + length)
                dims[i] = d if length > 1 else LOST
                free.remove(d)
            elif size % theirs[d] == 0 and size > theirs[d]:
                factors = [(d, theirs[d]), (LOST, size // theirs[d])]
                dims[i] = tuple(draw(st.permutations(factors)))
                free.remove(d)
    for d in free:
        if draw(st.booleans()):
            there[d] = draw(windows(theirs[d]))
    return Alignment(tuple(dims), sorted_windows(here, ours), sorted_windows(there, theirs))
