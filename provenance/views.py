"""Rules of the ops that give the same elements another shape, or their dimensions another order.

>>> from torch import ones
>>> [dims for _, dims in transpose((3, 2), (ones(2, 3), 0, 1), {})]
[(1, 0)]
"""

import math
from collections.abc import Iterable

from ancestral.provenance.alignment import LOST, Regroup, Shape, Step
from ancestral.provenance.operands import Args, Kwargs, Pair, Rule, argument, rank_of, tensors_in


def reshape(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """A dimension that is neither split nor merged keeps its index."""
    # view_as(other) reads a shape only; a scalar tensor among the sizes is read for its value.
    others: list[Pair] = [(t, None) for t in tensors_in(args[1:], kwargs) if rank_of(t)]
    return [(args[0], _regrouped(tuple(args[0].shape), shape)), *others]


def _regrouped(old: Shape, new: Shape) -> Step:
    if math.prod(old) == math.prod(new):
        return Regroup(old, new)
    # As another type: the last dimension is counted anew.
    return tuple(range(len(old))) if len(old) == len(new) else (LOST,) * len(new)


def transpose(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Two dimensions change places."""
    rank = rank_of(args[0])
    a = argument(args, kwargs, 1, "dim0", "axis0")
    b = argument(args, kwargs, 2, "dim1", "axis1")
    dims = list(range(rank))
    if rank:
        dims[a], dims[b] = dims[b], dims[a]
    return [(args[0], tuple(dims))]


def last_two(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The last two dimensions change places: ``t``, ``mT``, ``mH``; ``T`` and ``H`` of a matrix."""
    rank = rank_of(args[0])
    dims = tuple(range(rank))
    return [(args[0], dims if rank < 2 else (*dims[:-2], rank - 1, rank - 2))]


def all_reversed(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """All dimensions in the opposite order: ``T``."""
    return [(args[0], tuple(reversed(range(rank_of(args[0])))))]


def permute(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Dimensions in a new order."""
    dims = argument(args, kwargs, 1, "dims")
    order = dims if isinstance(dims, (tuple, list)) else args[1:]
    return [(args[0], tuple(d % rank_of(args[0]) for d in order))]


def movedim(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Some dimensions move, the rest keep their order."""
    rank = rank_of(args[0])
    source = argument(args, kwargs, 1, "source")
    destination = argument(args, kwargs, 2, "destination")
    if any(True for _ in tensors_in(source, destination)):
        return None
    moved, places = (
        [d % rank for d in ([given] if isinstance(given, int) else given)]
        for given in (source, destination)
    )
    rest = iter(d for d in range(rank) if d not in moved)
    landing = dict(zip(places, moved, strict=True))
    return [(args[0], tuple(landing[d] if d in landing else next(rest) for d in range(rank)))]


TABLE: dict[Rule, str] = {
    reshape: """
        flatten ravel reshape reshape_as squeeze unflatten unsqueeze view view_as atleast_1d
    """,
    transpose: "swapaxes swapdims transpose",
    last_two: "adjoint t",
    permute: "permute",
    movedim: "moveaxis movedim",
}
GETTERS: dict[Rule, str] = {
    last_two: "H mH mT",
    all_reversed: "T",
}
