"""Overlap of two alignments of one tensor with one source.

A source may stand under several alignments, as long as they share no pair of elements: then costs
are counted once. Those that overlap become what both claim, and neighbours become one.

>>> first, second = (Alignment((LOST,), ((0, n, n + 1),), ((0, n, n + 1),)) for n in (0, 1))
>>> disjoint(first, second), with_claim((first,), second)
(True, (Alignment(dims=(0,), here=((0, 0, 2),), there=((0, 0, 2),)),))
"""

import math

from ancestral.provenance.algebra.alignment import (
    Alignment,
    Window,
    by_dim,
    compose,
    windows_of,
    without_points,
)
from ancestral.provenance.algebra.factors import (
    LOST,
    Dim,
    Factor,
    Factors,
    factors_of,
    merged,
    side_by_side,
)


def disjoint(a: Alignment, b: Alignment) -> bool:
    """Return whether two relations, of one tensor with one source, share no pair of elements."""
    for ours, theirs in ((a.here, b.here), (a.there, b.there)):
        if ours and theirs:
            known = by_dim(theirs)
            for dim, first, end in ours:
                other = known.get(dim)
                if other is not None and (end <= other[0] or other[1] <= first):
                    return True
    return _runs_beside(a, b) or _runs_beside(b, a)


def _runs_beside(a: Alignment, b: Alignment) -> bool:
    """Return whether a dimension that the one keeps runs at another distance in the other."""
    for i, dim in enumerate(a.dims):
        if isinstance(dim, int) and dim != LOST:
            shift = _shift_along(b, i, dim)
            if shift is not None and shift != _shift(a, i):
                return True
    return False


def _shift_along(alignment: Alignment, i: int, d: int) -> int | None:
    """Return by how much the index along `d` is ahead of that along `i`, None if it may be any."""
    is_point = _length(alignment.here, i) == _length(alignment.there, d) == 1
    if alignment.dims[i] != d and not is_point:
        return None
    return _first(alignment.there, d) - _first(alignment.here, i)


def covers(a: Alignment, b: Alignment) -> bool:
    """Return whether a relation has every pair of another; some that do are not noticed.

    >>> row = Alignment((LOST, 1), here=((0, 2, 3),), there=((0, 2, 3),))
    >>> covers(Alignment((0, 1)), row), covers(row, Alignment((0, 1)))
    (True, False)
    """
    if b.here and not all(isinstance(dim, int) for dim in a.dims):
        part = compose(Alignment(tuple(range(len(a.dims))), b.here, b.here), a)
        if part is None:
            return False
        a = part
    for ours, theirs in ((a.here, b.here), (a.there, b.there)):
        known = by_dim(theirs)
        for dim, first, end in ours:
            within = known.get(dim)
            if within is None or within[0] < first or end < within[1]:
                return False
    return all(
        (dim == LOST or _shift_along(b, i, dim) == _shift(a, i))
        if isinstance(dim, int)
        else dim == b.dims[i] and _stand_alike(a, b, i, dim)
        for i, dim in enumerate(a.dims)
    )


def meet(a: Alignment, b: Alignment) -> Alignment:
    """Return the least relation that has all pairs of two: what both claim."""
    dims = tuple(_agreed(a, b, i) for i in range(len(a.dims)))
    here, there = _hull(a.here, b.here), _hull(a.there, b.there)
    return without_points(Alignment(dims, here, there))


def _agreed(a: Alignment, b: Alignment, i: int) -> Dim:
    ours, theirs = a.dims[i], b.dims[i]
    if isinstance(ours, int) and isinstance(theirs, int):
        if ours != theirs or ours == LOST:
            return LOST
        return ours if _shift(a, i) == _shift(b, i) else LOST
    if _window(a.here, i) != _window(b.here, i):
        return LOST
    merge = theirs if isinstance(ours, int) else ours
    size = math.prod(factor.size for factor in factors_of(merge, 1))
    return merged(
        f if f == g and _window(a.there, f.dim) == _window(b.there, f.dim) else Factor(LOST, f.size)
        for f, g in side_by_side(factors_of(ours, size), factors_of(theirs, size))
    )


def joined(a: Alignment, b: Alignment) -> Alignment | None:
    """Return the union of two relations if it is one, None otherwise: neighbours become one.

    >>> a, b = (Alignment((LOST,), ((0, n, n + 1),), ((0, n + 4, n + 5),)) for n in (0, 1))
    >>> joined(a, b)
    Alignment(dims=(0,), here=((0, 0, 2),), there=((0, 4, 6),))
    """
    ours, theirs = by_dim(a.here), by_dim(b.here)
    far, away = by_dim(a.there), by_dim(b.there)
    if ours.keys() != theirs.keys() or far.keys() != away.keys():
        return None
    h = [i for i in ours if ours[i] != theirs[i]]
    t = [d for d in far if far[d] != away[d]]
    differing = [i for i, (d, e) in enumerate(zip(a.dims, b.dims, strict=True)) if d != e]
    if len(h) > 1 or len(t) > 1 or not all(i in h for i in differing):
        return None
    if h and t:
        return _joined_along(a, b, h[0], t[0])
    if differing:
        return None
    if h and a.dims[h[0]] == LOST:
        touching = _touching(ours[h[0]], theirs[h[0]])
        return touching and a._replace(here=windows_of({**ours, h[0]: touching}))
    if t and not _is_indexed(a, t[0]):
        touching = _touching(far[t[0]], away[t[0]])
        return touching and a._replace(there=windows_of({**far, t[0]: touching}))
    return None


def _joined_along(a: Alignment, b: Alignment, i: int, d: int) -> Alignment | None:
    """Join along a dimension of the tensor and one of the source that run side by side."""
    for claim in (a, b):
        is_point = claim.dims[i] == LOST and not _is_indexed(claim, d)
        is_point = is_point and _length(claim.here, i) == _length(claim.there, d) == 1
        if claim.dims[i] != d and not is_point:
            return None
    shifts = {_first(claim.there, d) - _first(claim.here, i) for claim in (a, b)}
    here = _touching(by_dim(a.here)[i], by_dim(b.here)[i])
    if len(shifts) > 1 or here is None:
        return None
    shift = shifts.pop()
    there = (here[0] + shift, here[1] + shift)
    dims = tuple(d if at == i else dim for at, dim in enumerate(a.dims))
    return without_points(
        Alignment(
            dims,
            windows_of({**by_dim(a.here), i: here}),
            windows_of({**by_dim(a.there), d: there}),
        )
    )


MOST_CLAIMS = 16
"""Of one source: with more, only what all of them claim is kept."""


def with_claim(claims: tuple[Alignment, ...], new: Alignment) -> tuple[Alignment, ...]:
    """Add a relation to disjoint ones; those that overlap become what both claim."""
    if any(covers(claim, new) for claim in claims):
        return claims
    kept = list(claims)
    at = 0
    while at < len(kept):
        known = kept[at]
        both = new if covers(new, known) else joined(known, new)
        if both is None and not disjoint(known, new):
            both = meet(known, new)
        if both is None:
            at += 1
        else:
            del kept[at]
            new, at = both, 0
    kept.append(new)
    if len(kept) > MOST_CLAIMS:
        least = kept[0]
        for claim in kept[1:]:
            least = meet(least, claim)
        return (least,)
    return tuple(kept)


def _touching(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int] | None:
    return None if a[1] < b[0] or b[1] < a[0] else (min(a[0], b[0]), max(a[1], b[1]))


def _hull(a: tuple[Window, ...], b: tuple[Window, ...]) -> tuple[Window, ...]:
    if not a or not b:
        return ()
    ours, theirs = by_dim(a), by_dim(b)
    return windows_of(
        {
            dim: (min(ours[dim][0], theirs[dim][0]), max(ours[dim][1], theirs[dim][1]))
            for dim in ours.keys() & theirs.keys()
        }
    )


def _stand_alike(a: Alignment, b: Alignment, i: int, dim: Factors) -> bool:
    """Return whether a merged dimension and what it indexes have the same windows in both."""
    return _window(a.here, i) == _window(b.here, i) and all(
        _window(a.there, factor.dim) == _window(b.there, factor.dim) for factor in dim
    )


def _window(windows: tuple[Window, ...], dim: int) -> tuple[int, int] | None:
    return next(((first, end) for d, first, end in windows if d == dim), None)


def _length(windows: tuple[Window, ...], dim: int) -> int:
    return next((end - first for d, first, end in windows if d == dim), -1)


def _is_indexed(alignment: Alignment, d: int) -> bool:
    return any(
        dim == d if isinstance(dim, int) else any(d == factor.dim for factor in dim)
        for dim in alignment.dims
    )


def _first(windows: tuple[Window, ...], dim: int) -> int:
    return next((first for d, first, _ in windows if d == dim), 0)


def _shift(alignment: Alignment, i: int) -> int:
    """Return how far the index along the source is ahead of that along dimension `i`."""
    dim = alignment.dims[i]
    assert isinstance(dim, int)
    return _first(alignment.there, dim) - _first(alignment.here, i)
