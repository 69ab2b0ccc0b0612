"""Alignment: a relation between elements of a tensor and elements of a source.

An alignment is a relation between the elements of two tensors, kept dimension by dimension. A
dimension of the tensor may index one of the source's: element ``n`` along it then depends, of this
source, only on elements ``n`` along the other. Windows say where: only the elements within `here`
depend on the source at all, and only on those within `there`; along an aligned dimension the two
run side by side, so that slices and concatenations keep their offsets. A dimension into which
several were merged keeps them as factors, and can be split again.

The same relation says what an op does to its operand, so that to follow an op is to `compose` two
relations. Whatever is claimed less than what is true costs variance only.

>>> row = Alignment((1,), there=((0, 2, 3),))           # z[2]: dimension 0 indexes dimension 1 of z
>>> compose(Alignment((LOST,)), row)                    # ... summed, and broadcast again
Alignment(dims=(-1,), here=(), there=((0, 2, 3),))
>>> relates(row, (5,), (2, 5)), relates(row, (5,), (2, 4)), relates(row, (5,), (1, 5))
(True, False, False)
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from ancestral.provenance.algebra.factors import (
    LOST,
    Dim,
    Dims,
    Factor,
    Factors,
    Span,
    cut,
    factors_of,
    merged,
    narrowed,
    part,
    through,
    within,
)

__all__ = [
    "LOST",
    "Alignment",
    "Dim",
    "Dims",
    "Regroup",
    "Shape",
    "Step",
    "Window",
    "apply",
    "as_alignment",
    "by_dim",
    "compose",
    "fit",
    "keeps",
    "nothing_kept",
    "regroup",
    "relates",
    "shown",
    "whole",
    "windows_of",
    "without_points",
]

Shape = tuple[int, ...]
Window = tuple[int, int, int]
"""A dimension, the first index within the window, the first beyond it."""


class Alignment(NamedTuple):
    """A relation between the elements of a tensor and those of a source.

    `dims` has, for each dimension of the tensor, the dimension of the source that it indexes, or
    its factors. `here` are windows on dimensions of the tensor, `there` on those of the source, in
    the order of the dimensions; the windows of an aligned pair have one length.
    """

    dims: Dims
    here: tuple[Window, ...] = ()
    there: tuple[Window, ...] = ()


class Regroup(NamedTuple):
    """What a row-major reshape does to its operand."""

    old: Shape
    new: Shape


Step = Dims | Alignment | Regroup
"""The effect of an op on an operand: the dimensions alone, a relation, or a reshape."""


def nothing_kept(rank: int) -> Alignment:
    """Return the alignment of a tensor that depends on a source we know not how."""
    return Alignment((LOST,) * rank)


def keeps(alignment: Alignment) -> bool:
    """Return whether an alignment tells anything of single elements."""
    return bool(alignment.here or alignment.there or any(dim != LOST for dim in alignment.dims))


def as_alignment(step: Dims | Alignment) -> Alignment:
    """Return a relation that may have been given by its dimensions alone."""
    return step if isinstance(step, Alignment) else Alignment(step)


@lru_cache(maxsize=65536)
def fit(step: Alignment, old: Shape, new: Shape) -> Alignment:
    """Return the relation of a result of shape `new` to its operand of shape `old`.

    A dimension that changes its size is lost: it no longer indexes element by element.
    """
    ours, theirs = list(new), list(old)  # the sizes that meet
    for i, first, end in step.here:
        ours[i] = end - first
    for d, first, end in step.there:
        theirs[d] = end - first
    dims = list(step.dims)
    for i, dim in enumerate(dims):
        if isinstance(dim, int) and dim != LOST and (new[i] == 1 or ours[i] != theirs[dim]):
            dims[i] = LOST
    if not (step.here or step.there):
        return Alignment(tuple(dims))
    here = tuple((i, a, b) for i, a, b in step.here if (a, b) != (0, new[i]))
    there = tuple((d, a, b) for d, a, b in step.there if (a, b) != (0, old[d]))
    return without_points(Alignment(tuple(dims), here, there))


@lru_cache(maxsize=65536)
def compose(outer: Alignment, inner: Alignment) -> Alignment | None:
    """Return the relation that two steps make together, None if no element is left in it.

    >>> compose(Alignment((0, LOST)), Alignment((1, 0)))
    Alignment(dims=(1, -1), here=(), there=())
    """
    if not (outer.here or outer.there or inner.here or inner.there):
        return Alignment(tuple([through(dim, inner.dims) for dim in outer.dims]))
    return _composed(outer, inner)


def _composed(outer: Alignment, inner: Alignment) -> Alignment | None:
    """Compose relations with windows: on each dimension between, those of both sides meet."""
    left, right = by_dim(outer.there), by_dim(inner.here)
    for d in sorted({**left, **right}):
        ours, theirs = left.get(d), right.get(d)
        both = _meet(ours, theirs)
        assert both is not None
        if both[0] >= both[1]:
            return None
        if both != ours:
            outer = _fewer_here(outer, d, _inside(both, ours))
        if both != theirs:
            inner = _fewer_there(inner, d, _inside(both, theirs))
    dims = tuple(through(dim, inner.dims) for dim in outer.dims)
    return without_points(Alignment(dims, outer.here, inner.there))


def _inside(span: Span, window: Span | None) -> Span:
    first = 0 if window is None else window[0]
    return span[0] - first, span[1] - first


def _fewer_here(outer: Alignment, d: int, span: Span) -> Alignment:
    """Leave only a span of what a relation relates along dimension `d` of the other side."""
    dims, here = list(outer.dims), by_dim(outer.here)
    for i, dim in enumerate(dims):
        if dim == d:
            first = here.get(i, (0, 0))[0]
            here[i] = (first + span[0], first + span[1])
    merges = {i: list(dim) for i, dim in enumerate(dims) if not isinstance(dim, int)}
    # The parts of the dimension, the one that counts slowest first: of it, a slice is left.
    places = [(i, p) for i, dim in merges.items() for p, f in enumerate(dim) if f.dim == d]
    places.sort(key=lambda place: -merges[place[0]][place[1]].stride)
    first, end, total = *span, 0
    is_cut = is_lost = False
    for i, p in places:
        factor = merges[i][p]
        total = total or factor.total or factor.size
        is_lost = is_lost or (not is_cut and factor.stride * factor.size != total)
        size = factor.size
        if not is_cut and not is_lost:
            total, ahead = factor.stride, here.get(i, (0, 0))[0]
            start, stop = first // total, (end - 1) // total + 1
            is_lost = (stop - start > 1 and bool(first % total or end % total)) or p > 0
            if not p:
                inner = math.prod(other.size for other in merges[i][1:])
                here[i] = (ahead + start * inner, ahead + stop * inner)
                size = stop - start
            is_cut = size > 1
            first, end = first - start * total, end - start * total
        left = Factor(LOST, size) if is_lost else part(d, size, factor.stride, span[1] - span[0])
        merges[i][p] = left
    for i, factors in merges.items():
        dims[i] = merged(factors)
    return Alignment(tuple(dims), windows_of(here), outer.there)


def _fewer_there(inner: Alignment, d: int, span: Span) -> Alignment:
    """Leave only a span of what a relation relates along dimension `d` of the tensor."""
    dims, there = list(inner.dims), by_dim(inner.there)
    dim = dims[d]
    spans: dict[int, Span] = {}
    if not isinstance(dim, int):
        part, spans = narrowed(dim, *span)
        dims[d] = merged(part)
    elif dim != LOST:
        spans = {dim: span}
    for e, (first, end) in spans.items():
        start = there.get(e, (0, 0))[0]
        there[e] = (start + first, start + end)
        for i, other in enumerate(dims):
            if not isinstance(other, int):
                dims[i] = merged(within(other, e, first, end))
            elif other == e and i != d:
                dims[i] = LOST
    return Alignment(tuple(dims), inner.here, windows_of(there))


class _Run(NamedTuple):
    """A dimension on its way through a reshape: its size, its window if any, its factors there."""

    size: int
    window: Span | None
    factors: Factors

    def then(self, other: "_Run") -> "_Run":
        """Return the dimension that is merged of this one and the next."""
        size = self.size * other.size
        if self.window is None and other.window is None:
            return _Run(size, None, self.factors + other.factors)
        first, end = self.window or (0, self.size)
        if end - first == 1 and other.window is not None:
            start = first * other.size
            window = (start + other.window[0], start + other.window[1])
            return _Run(size, window, other.factors)
        after = (Factor(LOST, other.size),) if other.window is not None else other.factors
        window = (first * other.size, end * other.size)
        return _Run(size, None if window == (0, size) else window, self.factors + after)

    def split(self, inner: int) -> "tuple[_Run, _Run]":
        """Return the two dimensions, the second of this size, that make up this one."""
        outer = self.size // inner
        first, end = self.window or (0, self.size)
        start, stop = first // inner, (end - 1) // inner + 1
        lost = _Run(inner, None, (Factor(LOST, inner),))
        window = None if (start, stop) == (0, outer) else (start, stop)
        if stop - start == 1 and outer > 1:
            span = (first - start * inner, end - start * inner)
            rest = _Run(inner, None if span == (0, inner) else span, self.factors)
            return _Run(outer, window, (Factor(LOST, 1),)), rest
        halves = None if first % inner or end % inner else cut(self.factors, inner)
        if halves is None:
            return _Run(outer, window, (Factor(LOST, stop - start),)), lost
        return _Run(outer, window, halves[0]), _Run(inner, None, halves[1])


def regroup(step: Regroup, inner: Alignment) -> Alignment:
    """Return the relation of a reshaped tensor: factors move, merged or split, or are lost.

    >>> once = regroup(Regroup((2, 3, 4), (6, 4)), Alignment((0, LOST, 2)))
    >>> shown(once), shown(regroup(Regroup((6, 4), (2, 3, 2, 2)), once))
    ('0*- 2', '0 - 2//2 2%2')
    """
    old, new = step
    if 0 in old or 0 in new:
        return Alignment((LOST,) * len(new), there=inner.there)
    here = by_dim(inner.here)
    runs = []
    for i, size in enumerate(old):
        first, end = here.get(i, (0, size))
        if size != 1:
            runs.append(_Run(size, here.get(i), factors_of(inner.dims[i], end - first)))
    found: list[_Run] = []
    for size in new:
        taken = _Run(1, None, ())
        while taken.size < size:
            run, need = runs.pop(0), size // taken.size
            if run.size > need and run.size % need == 0:
                run, rest = run.split(run.size // need)
                runs.insert(0, rest)
            if need % run.size:
                return Alignment((LOST,) * len(new), there=inner.there)
            taken = taken.then(run)
        found.append(taken)
    windows = {j: run.window for j, run in enumerate(found) if run.window is not None}
    dims = tuple(merged(run.factors) for run in found)
    return Alignment(dims, windows_of(windows), inner.there)


def apply(step: Step, inner: Alignment) -> Alignment | None:
    """Return the relation of a result to a source, from that of an operand."""
    if isinstance(step, Regroup):
        return regroup(step, inner)
    return compose(as_alignment(step), inner)


def relates(alignment: Alignment, here: Shape, there: Shape) -> bool:
    """Return whether an element of the tensor may depend on an element of the source.

    This is what an alignment means; all else follows.
    """
    ours, theirs = by_dim(alignment.here), by_dim(alignment.there)
    inside = [(here[i], window) for i, window in ours.items()]
    inside += [(there[d], window) for d, window in theirs.items()]
    if not all(a <= index < b for index, (a, b) in inside):
        return False
    for i, dim in enumerate(alignment.dims):
        index = here[i] - ours.get(i, (0,))[0]
        for factor, digit in _digits(dim, index):
            other = there[factor.dim] - theirs.get(factor.dim, (0,))[0]
            if digit != (other // factor.stride % factor.size if factor.total else other):
                return False
    return True


def _digits(dim: Dim, index: int) -> Iterator[tuple[Factor, int]]:
    """Yield what an index stands for: the factors of the dimension, and the index along each."""
    for factor in reversed(factors_of(dim, index + 1)):
        if factor.dim != LOST:
            yield factor, index % factor.size
        index //= factor.size


def whole(alignment: Alignment, ours: Shape, theirs: Shape | None = None) -> Alignment:
    """Leave out the windows that span a whole dimension; `ours` and `theirs` are the shapes."""
    here, there = alignment.here, alignment.there
    if not (here or there):
        return alignment
    here = tuple(window for window in here if window[1:] != (0, ours[window[0]]))
    if theirs is not None:
        there = tuple(window for window in there if window[1:] != (0, theirs[window[0]]))
    if here == alignment.here and there == alignment.there:
        return alignment
    return alignment._replace(here=here, there=there)


def by_dim(windows: tuple[Window, ...]) -> dict[int, tuple[int, int]]:
    """Return windows by their dimension."""
    return {dim: (first, end) for dim, first, end in windows}


def windows_of(spans: dict[int, tuple[int, int]]) -> tuple[Window, ...]:
    """Return windows by dimension as an alignment has them."""
    return tuple((dim, *spans[dim]) for dim in sorted(spans))


def _meet(a: tuple[int, int] | None, b: tuple[int, int] | None) -> tuple[int, int] | None:
    if a is None or b is None:
        return b if a is None else a
    return max(a[0], b[0]), min(a[1], b[1])


def without_points(alignment: Alignment) -> Alignment:
    """Say of a pair of windows with one element that nothing runs along it."""
    points = {d for d, first, end in alignment.there if end - first == 1}
    if not points or not any(isinstance(dim, int) and dim in points for dim in alignment.dims):
        return alignment
    return alignment._replace(
        dims=tuple(
            LOST if isinstance(dim, int) and dim in points else dim for dim in alignment.dims
        )
    )


def shown(alignment: Alignment, between: str = " ") -> str:
    """Return an alignment as text: the dimension that each one indexes, and the windows.

    >>> shown(Alignment((0, LOST), there=((1, 2, 3),)))
    '0 - of [:, 2]'
    """
    dims = ["*".join(map(str, factors_of(dim, 0))) for dim in alignment.dims]
    text = between.join(dims) or "scalar"
    for word, windows in (("at", alignment.here), ("of", alignment.there)):
        if windows:
            by_dim = {d: (first, end) for d, first, end in windows}
            spans = [by_dim.get(d) for d in range(max(by_dim) + 1)]
            text += f" {word} [{', '.join(_span(span) for span in spans)}]"
    return text


def _span(span: tuple[int, int] | None) -> str:
    if span is None:
        return ":"
    return str(span[0]) if span[1] - span[0] == 1 else f"{span[0]}:{span[1]}"
