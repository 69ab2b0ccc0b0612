"""Sums of costs over the dimensions that no element of a site indexes."""

from collections.abc import Callable, Collection, Hashable, Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dim, Shape, Window
from ancestral.provenance.algebra.factors import Factor, all_parts, factors_of, meets, merged, runs

Numbers = npt.NDArray[np.int64]


class Stacks:
    """The costs of one shape and type stacked, so that many are summed by one op."""

    FEW, MANY = 8, 64
    MOST = 2**18  # elements that are picked at once

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = values
        self._rows: Numbers | None = None
        self._groups: Numbers | None = None
        self._stacked: list[Tensor] = []

    def sums(self, numbers: Numbers) -> list[Tensor]:
        """Return the sums of the costs of these numbers, one for each shape and type."""
        if len(numbers) <= self.FEW:
            found: dict[Hashable, Tensor] = {}
            for number in numbers.tolist():
                value = self._values[number]
                kind = (_sizes(value), value.dtype)
                found[kind] = found[kind] + value if kind in found else value
            return list(found.values())
        rows, groups = self._index()
        if len(self._stacked) == 1:
            return [_picked(self._stacked[0], numbers)]
        sums: list[Tensor] = []
        chosen = groups[numbers]
        for group in np.unique(chosen).tolist():
            sums.append(_picked(self._stacked[group], rows[numbers[chosen == group]]))
        return sums

    def each(
        self, sizes: Sequence[int], numbers_of: Callable[[int], Numbers]
    ) -> list[list[Tensor]]:
        """Return the same for each of some sets of costs; for many of them, by fewer ops.

        Args:
            sizes: how many costs there are in each set.
            numbers_of: returns the numbers of those in one, given its place.
        """
        if len(sizes) >= self.MANY:
            self._index()
        if len(self._stacked) != 1:
            return [self.sums(numbers_of(place)) for place in range(len(sizes))]
        # A row of zeros fills up those that are shorter than the longest of their matrix.
        (stack,) = self._stacked
        nothing = stack.new_zeros((1, *stack.shape[1:]))
        rows = torch.cat([stack, nothing])
        found: list[list[Tensor]] = [[]] * len(sizes)
        places = sorted(range(len(sizes)), key=sizes.__getitem__)
        while places:
            width = sizes[places[-1]]
            together = places[-max(1, self.MOST // max(width * nothing.numel(), 1)) :]
            del places[-len(together) :]
            index = np.full((len(together), width), len(stack))
            for row, place in zip(index, together, strict=True):
                row[: sizes[place]] = numbers_of(place)
            picked = rows.index_select(0, torch.from_numpy(index.reshape(-1)).to(rows.device))
            sums = picked.reshape(len(together), width, *stack.shape[1:]).sum(1)
            for place, total in zip(together, sums.unbind(), strict=True):
                found[place] = [total]
        return found

    def _index(self) -> tuple[Numbers, Numbers]:
        """Return the row of each cost in its stack, and the number of that stack."""
        if self._rows is None or self._groups is None:
            members: dict[object, list[int]] = {}
            for number, value in enumerate(self._values):
                kind = (_sizes(value), value.dtype, value.device)
                members.setdefault(kind, []).append(number)
            self._rows = np.empty(len(self._values), dtype=np.int64)
            self._groups = np.empty(len(self._values), dtype=np.int64)
            for group, numbers in enumerate(members.values()):
                self._rows[numbers] = np.arange(len(numbers))
                self._groups[numbers] = group
                self._stacked.append(torch.stack([self._values[number] for number in numbers]))
        return self._rows, self._groups


def _sizes(value: Tensor) -> tuple[Hashable, ...]:
    """Return the shape of a cost, a symbol of the compiler's by its text."""
    shape = tuple(value.shape)
    return shape if is_plain(shape) else tuple(map(str, shape))


def is_plain(shape: Shape) -> bool:
    """Return whether all sizes are numbers, none a symbol of the compiler's."""
    return {*map(type, shape)} <= {int}


def _picked(stacked: Tensor, rows: Numbers) -> Tensor:
    """Return the sum of some rows."""
    chosen = torch.from_numpy(rows).to(stacked.device, non_blocking=True)
    return stacked.index_select(0, chosen).sum(0)


class Reduction(NamedTuple):
    """How a cost is summed over the dimensions that index none of the site's, the others in order.

    `alignment` says what the dimensions of the sum, of shape `shape`, index of those of the site, a
    whole one or a part of one. The rest is what is done, in this order.
    """

    alignment: Alignment
    shape: Shape
    narrowed: tuple[Window, ...] = ()
    split: Shape | None = None
    gone: tuple[int, ...] = ()
    order: tuple[int, ...] | None = None
    merged: Shape | None = None

    def of(self, value: Tensor) -> Tensor:
        """Return the sum of a cost."""
        for i, first, end in self.narrowed:
            value = value.narrow(i, first, end - first)
        if self.split is not None:
            value = value.reshape(self.split)
        if self.gone:
            value = value.sum(self.gone)
        if self.order is not None:
            value = value.permute(self.order)
        return value if self.merged is None else value.reshape(self.merged)


def reduction(claim: Alignment, shape: Shape) -> Reduction:
    """Return how a cost of a shape is summed; of two dimensions that index the same, one is kept.

    >>> reduction(Alignment((1, LOST, 0)), (2, 3, 4))[:2]
    (Alignment(dims=(0, 1), here=(), there=()), (4, 2))
    """
    return _kept(claim, shape) if is_plain(shape) else _reduction(claim, shape)


def _reduction(claim: Alignment, shape: Shape) -> Reduction:
    sizes = list(shape)
    for i, first, end in claim.here:
        sizes[i] = end - first
    dims = claim.dims
    if {*map(type, dims)} <= {int} and dims == tuple(sorted({*dims} - {LOST})):
        return Reduction(Alignment(dims, there=claim.there), tuple(sizes), claim.here)
    factors = [f for dim, n in zip(dims, sizes, strict=True) for f in factors_of(dim, n)]
    kept: list[int] = []
    for i, factor in enumerate(factors):
        if factor.dim != LOST and not any(meets(factor, factors[j]) for j in kept):
            kept.append(i)
    order = sorted(range(len(kept)), key=lambda at: _place(factors[kept[at]]))
    found = [factors[kept[at]] for at in order]
    together = runs(found)  # parts that make up a dimension are one
    left = tuple(factor.size for factor in together)
    return Reduction(
        Alignment(tuple(merged([f]) for f in together), there=claim.there),
        left,
        claim.here,
        None if len(factors) == len(sizes) else tuple(factor.size for factor in factors),
        tuple(i for i in range(len(factors)) if i not in kept),
        None if order == list(range(len(kept))) else tuple(order),
        None if len(together) == len(found) else left,
    )


_kept = lru_cache(maxsize=8192)(_reduction)


def _place(factor: Factor) -> tuple[int, int]:
    return factor.dim, -factor.stride


class Filling(NamedTuple):
    """How a sum that indexes parts of dimensions of the site is repeated along their other parts.

    `alignment` is that of what results; the rest is what is done, in this order.
    """

    alignment: Alignment
    narrow: Shape | None = None  # the sizes with ones where it is repeated
    wide: Shape = ()
    ends: Shape = ()  # of each dimension that results

    def of(self, total: Tensor) -> Tensor:
        """Return the sum, repeated."""
        if self.narrow is None:
            return total
        return total.reshape(self.narrow).expand(self.wide).reshape(self.ends)


def filling(alignment: Alignment, shape: Shape) -> Filling:
    """Return how a sum of a shape is repeated."""
    if not any(isinstance(dim, tuple) for dim in alignment.dims):
        return Filling(alignment)
    dims: list[Dim] = []
    narrow: list[int] = []
    wide: list[int] = []
    ends: list[int] = []
    for d, factors in groupby(
        (f for dim, n in zip(alignment.dims, shape, strict=True) for f in factors_of(dim, n)),
        key=lambda factor: factor.dim,
    ):
        left = whole = 0
        for factor in factors:
            whole = whole or factor.total or factor.size
            left = left or whole
            narrow += [1, factor.size]
            wide += [left // (factor.stride * factor.size), factor.size]
            left = factor.stride
        narrow.append(1)
        wide.append(left)
        dims.append(d)
        ends.append(whole)
    found = alignment._replace(dims=tuple(dims))
    return Filling(found, tuple(narrow), tuple(wide), tuple(ends))


def apart_dims(claims: Collection[Alignment]) -> frozenset[int]:
    """Return the dimensions of a site along which each cost depends on one element only.

    Args:
        claims: how the costs depend on the site. Of several, all must index a dimension alike.

    >>> apart_dims([Alignment((0, 1)), Alignment((0, 1), here=((1, 1, 3),), there=((1, 0, 2),))])
    frozenset({0})
    """
    first, *rest = map(_places, claims)
    if not rest:
        return frozenset(first)
    return frozenset(d for d, place in first.items() if all(place == o.get(d) for o in rest))


def apart_through(edge: Alignment, apart: frozenset[int]) -> frozenset[int]:
    """Return the dimensions of a site along which costs are apart that are so along its child's.

    Args:
        edge: how the child depends on the site.
        apart: the dimensions of the child along which each cost depends on one element only.
    """
    return frozenset(d for d, (dims, _) in _places(edge).items() if apart.issuperset(dims))


def _places(claim: Alignment) -> dict[int, tuple[frozenset[int], Hashable]]:
    """Return for each dimension of a site of which one element is depended on which that is.

    Each is given by the dimensions that index it, the factors of those that do, and the offset; or
    by its number alone.
    """
    starts: dict[int, int] = dict(map(itemgetter(0, 1), claim.there))
    heres: dict[int, int] = dict(map(itemgetter(0, 1), claim.here))
    found: dict[int, tuple[frozenset[int], Hashable]] = {}
    for d, first, end in claim.there:
        if end - first == 1:
            found[d] = (frozenset(), first)
    whole: dict[int, list[tuple[int, Hashable]]] = {}
    for i, dim in reversed(list(enumerate(claim.dims))):  # of several that index it, the first
        inner = 1
        for factor in reversed(factors_of(dim, 1)):
            shift = starts.get(factor.dim, 0) - heres.get(i, 0)
            place = (i, (i, inner, factor.stride, shift))
            if factor.total:
                whole.setdefault(factor.dim, []).append(place)
            else:
                whole[factor.dim] = [place]
            inner *= factor.size
    for d in all_parts(claim.dims):
        found[d] = (frozenset(i for i, _ in whole[d]), frozenset(place for _, place in whole[d]))
    return found


def spread(alignment: Alignment, shape: Shape) -> Shape:
    """Return the sizes of a sum with ones for the dimensions of the site that do not index it."""
    return tuple(size if d in alignment.dims else 1 for d, size in enumerate(shape))


def room(alignment: Alignment, shape: Shape) -> Shape:
    """Return the shape of a site with ones for the dimensions along which a sum is one for all."""
    told = {*alignment.dims, *(d for d, _, _ in alignment.there)}
    return tuple(size if d in told else 1 for d, size in enumerate(shape))


def put(total: Tensor, alignment: Alignment, onto: Tensor) -> Tensor:
    """Add a sum, in place where the type allows, at the elements of a site that it is for."""
    windows = {d: (first, end) for d, first, end in alignment.there}
    kept = dict(zip(alignment.dims, total.shape, strict=True))
    place = tuple(slice(*windows.get(d, (0, size))) for d, size in enumerate(onto.shape))
    onto = onto.to(torch.promote_types(onto.dtype, total.dtype))
    onto[place] += total.reshape([kept.get(d, 1) for d in range(onto.ndim)])
    return onto
