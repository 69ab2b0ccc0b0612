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

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

LOST = -1
"""No dimension: in an alignment, this dimension of the tensor indexes none of the source's."""

Shape = tuple[int, ...]
Factors = tuple[tuple[int, int], ...]
"""The factors of a merged dimension: the dimension that each indexes, and its size."""
Dim = int | Factors
Dims = tuple[Dim, ...]
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


def factors_of(dim: Dim, size: int) -> Factors:
    """Return the factors of a dimension of this size."""
    return ((dim, size),) if isinstance(dim, int) else dim


def merged(factors: Iterable[tuple[int, int]]) -> Dim:
    """Return the dimension that is merged of factors.

    >>> merged([(0, 2), (LOST, 3)]), merged([(1, 4), (LOST, 1)]), merged([(LOST, 2), (LOST, 3)])
    (((0, 2), (-1, 3)), 1, -1)
    """
    kept = tuple((d, size) for d, size in factors if size != 1)
    if all(d == LOST for d, _ in kept):
        return LOST
    return kept[0][0] if len(kept) == 1 else kept


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
        return Alignment(tuple([_through(dim, inner.dims) for dim in outer.dims]))
    return _composed(outer, inner)


def _through(dim: Dim, inner: Dims) -> Dim:
    if isinstance(dim, int):
        return LOST if dim == LOST else inner[dim]
    return merged(
        factor for d, size in dim for factor in (factors_of(LOST if d == LOST else inner[d], size))
    )


def _composed(outer: Alignment, inner: Alignment) -> Alignment | None:
    """Compose relations with windows: on each dimension between, those of both sides meet."""
    dims = [_through(dim, inner.dims) for dim in outer.dims]
    here, there = by_dim(outer.here), by_dim(inner.there)
    left, right = by_dim(outer.there), by_dim(inner.here)
    for d in {**left, **right}:
        ours, theirs = left.get(d), right.get(d)
        both = _meet(ours, theirs)
        assert both is not None
        if both[0] >= both[1]:
            return None
        if both != ours:  # narrower than what the tensor's own windows say
            for i, dim in enumerate(outer.dims):
                if dim == d:
                    shift = here.get(i, (0,))[0] - (ours or (0,))[0]
                    here[i] = (both[0] + shift, both[1] + shift)
                elif not isinstance(dim, int) and any(d == e for e, _ in dim):
                    dims[i] = LOST  # a merged dimension has no windows
        if both != theirs:
            e = inner.dims[d]
            if not isinstance(e, int):
                for i, dim in enumerate(outer.dims):
                    if dim == d or (not isinstance(dim, int) and any(d == f for f, _ in dim)):
                        dims[i] = LOST
            elif e != LOST:
                shift = there.get(e, (0,))[0] - (theirs or (0,))[0]
                there[e] = (both[0] + shift, both[1] + shift)
    return without_points(Alignment(tuple(dims), windows_of(here), windows_of(there)))


def regroup(step: Regroup, inner: Alignment) -> Alignment:
    """Return the relation of a reshaped tensor: factors move, as they are or merged, or are lost.

    >>> once = regroup(Regroup((2, 3, 4), (6, 4)), Alignment((0, LOST, 2)))
    >>> once
    Alignment(dims=(((0, 2), (-1, 3)), 2), here=(), there=())
    >>> regroup(Regroup((6, 4), (2, 3, 2, 2)), once)
    Alignment(dims=(0, -1, -1, -1), here=(), there=())
    """
    old, new = step
    here = by_dim(inner.here)
    if 0 in old or 0 in new:
        return Alignment((LOST,) * len(new), there=inner.there)
    fine: list[tuple[int, int]] = []
    starts: dict[int, int] = {}  # where, among the factors, each old dimension begins
    for i, size in enumerate(old):
        starts[len(fine)] = i
        dim = inner.dims[i]
        whole = LOST if i in here else dim  # what has a window stays whole or is lost
        fine.extend(f for f in factors_of(whole, size) if f[1] != 1)
    dims: list[Dim] = []
    windows: dict[int, tuple[int, int]] = {}
    at = 0
    for j, size in enumerate(new):
        taken: list[tuple[int, int]] = []
        start = starts.get(at)
        if size != 1 and start is not None and start in here and old[start] == size:
            dims.append(inner.dims[start])
            windows[j] = here[start]
            at += 1
            continue
        need = size
        while need > 1:
            d, has = fine[at]
            if need % has == 0:
                taken.append((d, has))
                need //= has
                at += 1
            elif has % need == 0:  # split: the rest goes to the next dimension
                taken.append((LOST, need))
                fine[at] = (LOST, has // need)
                starts.pop(at, None)
                need = 1
            else:
                return Alignment((LOST,) * len(new), there=inner.there)
        dims.append(merged(taken))
    return Alignment(tuple(dims), windows_of(windows), inner.there)


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
        for d, index in _indexed(dim, here[i]):
            shift = theirs.get(d, (0,))[0] - ours.get(i, (0,))[0]
            if isinstance(dim, tuple):
                shift = theirs.get(d, (0,))[0]
            if there[d] != index + shift:
                return False
    return True


def _indexed(dim: Dim, index: int) -> Iterator[tuple[int, int]]:
    """Yield the dimensions of the source that an index stands for, and the index along each."""
    if isinstance(dim, int):
        if dim != LOST:
            yield dim, index
        return
    for d, size in reversed(dim):
        if d != LOST:
            yield d, index % size
        index //= size


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
    dims = [
        ("-" if dim == LOST else str(dim))
        if isinstance(dim, int)
        else "*".join("-" if d == LOST else str(d) for d, _ in dim)
        for dim in alignment.dims
    ]
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
