"""Factors: what a dimension that was merged of several, or that is a part of one, indexes.

A row-major reshape merges dimensions and splits them. Each factor of a dimension of a tensor stands
for one of the source's, or for a part of it: of the index ``n`` along that, ``n // stride % size``.

>>> rows, columns = cut((Factor(0, 6),), 2)            # a batch of 6 as 3 groups of 2
>>> rows, columns
((Factor(dim=0, size=3, stride=2, total=6),), (Factor(dim=0, size=2, stride=1, total=6),))
>>> merged((*rows, *columns))
0
"""

from collections.abc import Iterable
from typing import NamedTuple

LOST = -1
"""No dimension: in an alignment, this dimension of the tensor indexes none of the source's."""


class Factor(NamedTuple):
    """A dimension of a source, or a part of one, that a dimension of this size stands for.

    `total` is the size of the dimension, or of the window on it, that it is a part of; 0 if it is
    no part, but all of it.
    """

    dim: int
    size: int
    stride: int = 1
    total: int = 0

    @property
    def is_outermost(self) -> bool:
        """Whether it counts the slowest of the parts: a slice of it is a window on the source."""
        return self.stride * self.size == (self.total or self.size)

    def __str__(self) -> str:
        """Show what the index is, of that along the dimension of the source."""
        if not self.total:
            return "-" if self.dim == LOST else str(self.dim)
        rest = "" if self.is_outermost else f"%{self.size}"
        return f"{self.dim}{rest}" if self.stride == 1 else f"{self.dim}//{self.stride}{rest}"


Factors = tuple[Factor, ...]
"""The factors of a dimension, the one that counts slowest first."""
Dim = int | Factors
Dims = tuple[Dim, ...]


def factors_of(dim: Dim, size: int) -> Factors:
    """Return the factors of a dimension of this size."""
    return (Factor(dim, size),) if isinstance(dim, int) else dim


def part(dim: int, size: int, stride: int, total: int) -> Factor:
    """Return a part of a dimension of some size, which may be all of it."""
    return Factor(dim, size) if size == total else Factor(dim, size, stride, total)


def lost(size: int) -> Factors:
    """Return the factors of a dimension of this size that indexes nothing."""
    return (Factor(LOST, size),)


def merged(factors: Iterable[Factor]) -> Dim:
    """Return the dimension that is merged of factors.

    >>> merged([Factor(1, 4), Factor(LOST, 1)]), merged([Factor(LOST, 2), Factor(LOST, 3)])
    (1, -1)
    """
    kept = runs(factors)
    if all(factor.dim == LOST for factor in kept):
        return LOST
    return kept[0].dim if len(kept) == 1 and not kept[0].total else tuple(kept)


def runs(factors: Iterable[Factor]) -> list[Factor]:
    """Return factors, neighbours as one where they are together a part of one dimension."""
    kept: list[Factor] = []
    for factor in factors:
        if factor.size != 1:
            kept[-1:] = _run_on(*kept[-1:], factor)
    return kept


def _run_on(*factors: Factor) -> list[Factor]:
    """Return one or two neighbours, as one if together they are a part that both are parts of."""
    *before, last = factors
    for first in before:
        is_one = first.dim == last.dim != LOST and first.total == last.total
        if not is_one or first.stride != last.stride * last.size:
            return [first, last]
        last = last._replace(size=first.size * last.size)
    return [part(*last) if last.total else last]


def cut(factors: Factors, inner: int) -> tuple[Factors, Factors] | None:
    """Return the factors of both dimensions that one is split into, the last of size `inner`.

    None where the sizes do not divide each other.
    """
    left, right = list(factors), list[Factor]()
    while inner > 1:
        factor = left.pop()
        if inner % factor.size == 0:
            right.insert(0, factor)
            inner //= factor.size
        elif factor.size % inner == 0:
            outer, rest = _halves(factor, inner)
            left.append(outer)
            right.insert(0, rest)
            inner = 1
        else:
            return None
    return tuple(left), tuple(right)


def _halves(factor: Factor, inner: int) -> tuple[Factor, Factor]:
    dim, size, stride, total = factor
    if dim == LOST:
        return Factor(LOST, size // inner), Factor(LOST, inner)
    total = total or size
    return Factor(dim, size // inner, stride * inner, total), Factor(dim, inner, stride, total)


def side_by_side(ours: Factors, theirs: Factors) -> list[tuple[Factor, Factor]]:
    """Return the factors of two dimensions of one size, split where either is, in pairs.

    What cannot be split so is lost.
    """
    left, right = list(ours), list(theirs)
    found: list[tuple[Factor, Factor]] = []
    while left and right:
        f, g = left.pop(), right.pop()
        if f.size > g.size and f.size % g.size == 0:
            outer, f = _halves(f, g.size)
            left.append(outer)
        elif g.size > f.size and g.size % f.size == 0:
            outer, g = _halves(g, f.size)
            right.append(outer)
        if f.size != g.size:
            return []
        found.insert(0, (f, g))
    return found


def through(dim: Dim, inner: Dims) -> Dim:
    """Return what a dimension indexes of a source, by what it indexes of a tensor in between.

    `inner` is what the dimensions of that tensor index.
    """
    if isinstance(dim, int):
        return LOST if dim == LOST else inner[dim]
    return merged(found for factor in dim for found in _through(factor, inner))


def _through(factor: Factor, inner: Dims) -> Factors:
    if factor.dim == LOST:
        return (factor,)
    found = factors_of(inner[factor.dim], factor.total or factor.size)
    upper = cut(found, factor.stride * factor.size) if factor.total else (found, found)
    halves = cut(upper[1], factor.stride) if upper is not None else None
    return lost(factor.size) if halves is None else halves[0]


def all_parts(dims: Dims) -> set[int]:
    """Return the dimensions of a source that some dimensions index, all parts of them."""
    sizes: dict[int, int] = {}
    for factor in dict.fromkeys(factor for dim in dims for factor in factors_of(dim, 0)):
        part_of = sizes.get(factor.dim, 1) * factor.size if factor.total else 0
        sizes[factor.dim] = 0 if part_of == factor.total else part_of
    return {d for d, size in sizes.items() if not size} - {LOST}


def meets(a: Factor, b: Factor) -> bool:
    """Return whether two factors tell something of the same part of a dimension."""
    if a.dim != b.dim or not a.total or a.total != b.total:
        return a.dim == b.dim
    return bool(a.stride % (b.stride * b.size) and b.stride % (a.stride * a.size))


Span = tuple[int, int]


def narrowed(factors: Factors, first: int, end: int) -> tuple[Factors, dict[int, Span]]:
    """Return the factors of a slice of a dimension, and where it is along those that it indexes.

    The places are counted from where the factors are.
    """
    if not factors:
        return (), {}
    head, rest = factors[0], factors[1:]
    inner = 1
    for factor in rest:
        inner *= factor.size
    start, stop = first // inner, (end - 1) // inner + 1
    if stop - start == 1:
        tail, spans = narrowed(rest, first - start * inner, end - start * inner)
    elif first % inner == end % inner == 0:
        tail, spans = rest, {}
    else:
        return lost(end - first), {}
    size = stop - start
    if head.dim == LOST or size == head.size:
        return (head._replace(size=size), *tail), spans
    if not head.is_outermost:  # every so many elements of the source: no window says so
        return (Factor(LOST, size), *tail), spans
    stride = head.stride
    part = head._replace(size=size, total=head.total and size * stride)
    return (part, *tail), {**spans, head.dim: (start * stride, stop * stride)}


def within(factors: Factors, dim: int, first: int, end: int) -> Factors:
    """Return factors where, of a dimension of the source, only what is in a window is left."""
    size = end - first

    def kept(factor: Factor) -> Factor:
        if factor.dim != dim or size == (factor.total or factor.size):
            return factor
        block = factor.stride * factor.size
        if not factor.total or first % block or end % block:
            return Factor(LOST, factor.size)
        return factor._replace(total=size)

    return tuple(map(kept, factors))
