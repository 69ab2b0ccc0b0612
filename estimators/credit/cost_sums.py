"""Sums of costs over the dimensions that no element of a site indexes."""

from collections.abc import Collection, Sequence
from operator import itemgetter

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Alignment, Shape, factors_of
from ancestral.trace.graph.reachability import TermSet

Numbers = npt.NDArray[np.int64]


class Stacks:
    """The costs of one shape and type stacked, so that many are summed by one op."""

    FEW = 8

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = values
        self._rows: Numbers | None = None
        self._groups: Numbers | None = None
        self._stacked: list[Tensor] = []

    def sums(self, terms: TermSet) -> list[Tensor]:
        """Return the sums of some costs, one for each shape and type."""
        numbers = terms.numbers()
        if len(numbers) <= self.FEW:
            found: dict[tuple[Shape, torch.dtype], Tensor] = {}
            for number in numbers.tolist():
                value = self._values[number]
                kind = (tuple(value.shape), value.dtype)
                found[kind] = found[kind] + value if kind in found else value
            return list(found.values())
        rows, groups = self._index()
        sums: list[Tensor] = []
        chosen = groups[numbers]
        for group in np.unique(chosen).tolist():
            picked = torch.from_numpy(rows[numbers[chosen == group]])
            stacked = self._stacked[group]
            sums.append(stacked[picked.to(stacked.device)].sum(0))
        return sums

    def _index(self) -> tuple[Numbers, Numbers]:
        """Return the row of each cost in its stack, and the number of that stack."""
        if self._rows is None or self._groups is None:
            members: dict[object, list[int]] = {}
            for number, value in enumerate(self._values):
                kind = (tuple(value.shape), value.dtype, value.device)
                members.setdefault(kind, []).append(number)
            self._rows = np.empty(len(self._values), dtype=np.int64)
            self._groups = np.empty(len(self._values), dtype=np.int64)
            for group, numbers in enumerate(members.values()):
                self._rows[numbers] = np.arange(len(numbers))
                self._groups[numbers] = group
                self._stacked.append(torch.stack([self._values[number] for number in numbers]))
        return self._rows, self._groups


def reduced(value: Tensor, claim: Alignment) -> tuple[Alignment, Tensor]:
    """Sum a cost over the dimensions that index none of the site's, the others in its order.

    Return how the dimensions of the sum index those of the site, and the sum. Of two dimensions
    that index the same one of the site, the first is kept.
    """
    dims = claim.dims
    if not dims:
        return claim, value
    for i, first, end in claim.here:
        value = value.narrow(i, first, end - first)
    if {*map(type, dims)} != {int}:
        factors = [
            f for dim, size in zip(dims, value.shape, strict=True) for f in factors_of(dim, size)
        ]
        value = value.reshape([size for _, size in factors])
        dims = tuple(d for d, _ in factors)
    kept = tuple(sorted({*dims} - {LOST}))
    if kept == dims:
        return Alignment(kept, there=claim.there), value
    first_of = {d: dims.index(d) for d in kept}
    gone = [i for i, d in enumerate(dims) if first_of.get(d) != i]
    total = value.sum(gone) if gone else value
    left = [d for i, d in enumerate(dims) if first_of.get(d) == i]
    order = [left.index(d) for d in kept]
    return (
        Alignment(kept, there=claim.there),
        total if order == sorted(order) else total.permute(order),
    )


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
    return frozenset(d for d, (dim, _, _) in _places(edge).items() if dim is None or dim in apart)


def _places(claim: Alignment) -> dict[int, tuple[int | None, int, int]]:
    """Return for each dimension of a site of which one element is depended on which that is.

    Each is given by the dimension that indexes it, the factor of that, and the offset; or by its
    number alone.
    """
    starts: dict[int, int] = dict(map(itemgetter(0, 1), claim.there))
    heres: dict[int, int] = dict(map(itemgetter(0, 1), claim.here))
    found: dict[int, tuple[int | None, int, int]] = {}
    for d, first, end in claim.there:
        if end - first == 1:
            found[d] = (None, 0, first)
    for i, dim in reversed(list(enumerate(claim.dims))):
        for j, (d, _) in enumerate(factors_of(dim, 1)):
            if d != LOST:
                found[d] = (i, j, starts.get(d, 0) - heres.get(i, 0))
    return found


def spread(total: Tensor, alignment: Alignment, shape: Shape) -> Tensor:
    """Return a sum with ones for the dimensions of the site that do not index it."""
    return total.reshape([size if d in alignment.dims else 1 for d, size in enumerate(shape)])


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
