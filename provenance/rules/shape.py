"""Rules of the ops that give the same elements another shape, or their dimensions another order.

>>> from torch import ones
>>> [dims for _, dims in transpose((3, 2), (ones(2, 3), 0, 1), {})]
[(1, 0)]
"""

import math
from collections.abc import Iterable

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Dims, Regroup, Shape, Step
from ancestral.provenance.algebra.factors import Dim, Factor, merged
from ancestral.provenance.linear.build import Row
from ancestral.provenance.linear.rows import JOIN, MOVE, PART, PLAIN, VIEW
from ancestral.provenance.rules.op import (
    Op,
    Pair,
    besides_first,
    identity,
    listed,
    lost,
    own,
    rank_of,
)
from ancestral.provenance.rules.pointwise import is_alone, pointwise
from ancestral.provenance.tensor.arguments import Args, Kwargs, argument, tensors_in
from ancestral.provenance.tensor.memory_grid import base_of


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
        [d % max(rank, 1) for d in ([given] if isinstance(given, int) else given)]
        for given in (source, destination)
    )
    rest = iter(d for d in range(rank) if d not in moved)
    landing = dict(zip(places, moved, strict=True))
    return [(args[0], tuple(landing[d] if d in landing else next(rest) for d in range(rank)))]


def unfolded(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Windows along one dimension get their own dimension, the last: Tensor.unfold."""
    rank, dim = rank_of(args[0]), argument(args, kwargs, 1, "dimension")
    if not rank:
        return [(args[0], (LOST,))]
    return [(args[0], (*identity(rank, dim), LOST))]


def as_real(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Every element becomes a pair."""
    return [(args[0], (*range(len(shape) - 1), LOST))]


def as_complex(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Pairs become elements."""
    return [(args[0], tuple(range(len(shape))))]


def alone(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Dimensions of size one are added, to each of some tensors: handled by `operands_of`."""
    return [(t, _regrouped(tuple(t.shape), shape)) for t in tensors_in(args, kwargs)]


def diagonal(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """A diagonal is the last dimension; it starts at the edge of one of the two it runs through."""
    rank, offset = rank_of(args[0]), argument(args, kwargs, 1, "offset", default=0)
    first = argument(args, kwargs, 2, "dim1", "axis1", default=0) % rank
    second = argument(args, kwargs, 3, "dim2", "axis2", default=1) % rank
    return [(args[0], _through(rank, first, second, offset))]


def linalg_diagonal(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """As `diagonal`, of the last two dimensions by default."""
    options = {"offset": 0, "dim1": -2, "dim2": -1, **kwargs}
    return diagonal(shape, args[:1], options)


def _through(rank: int, first: int, second: int, offset: int) -> Dims:
    """Return the alignment of a diagonal with what it is taken from."""
    rest = (d for d in range(rank) if d not in (first, second))
    return (*rest, first if offset >= 0 else second)


def embedded(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The last dimension becomes a diagonal: diag_embed."""
    offset = argument(args, kwargs, 1, "offset", default=0)
    first = argument(args, kwargs, 2, "dim1", default=-2)
    second = argument(args, kwargs, 3, "dim2", default=-1)
    return [(args[0], _onto(len(shape), first, second, offset))]


def _onto(rank: int, first: int, second: int, offset: int) -> Dims:
    """Return the alignment with a tensor whose last dimension is written onto a diagonal."""
    first, second = first % rank, second % rank
    kept = first if offset >= 0 else second
    rest = iter(range(rank))
    return tuple(
        (rank - 2 if d == kept else LOST) if d in (first, second) else next(rest)
        for d in range(rank)
    )


def diag(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """A vector becomes a diagonal, a diagonal a vector."""
    offset = argument(args, kwargs, 1, "diagonal", "offset", default=0)
    if rank_of(args[0]) == 2 and len(shape) == 1:
        return [(args[0], _through(2, 0, 1, offset))]
    return [(args[0], _onto(2, 0, 1, offset) if rank_of(args[0]) == 1 else (LOST,) * len(shape))]


def select_scatter(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """What is put in has one dimension less."""
    rank, source = len(shape), argument(args, kwargs, 1, "src")
    dim = argument(args, kwargs, 2, "dim") % rank
    return [(args[0], identity(rank)), (source, (*range(dim), LOST, *range(dim, rank - 1)))]


def slice_scatter(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """What is put in stands elsewhere along one dimension."""
    rank, dim = len(shape), argument(args, kwargs, 2, "dim", default=0)
    return [(args[0], identity(rank)), (argument(args, kwargs, 1, "src"), identity(rank, dim))]


def diagonal_scatter(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """What is put onto a diagonal has that as its last dimension."""
    rank, offset = len(shape), argument(args, kwargs, 2, "offset", default=0)
    first = argument(args, kwargs, 3, "dim1", default=0)
    second = argument(args, kwargs, 4, "dim2", default=1)
    onto = _onto(rank, first, second, offset)
    return [(args[0], identity(rank)), (argument(args, kwargs, 1, "src"), onto)]


def repeat_interleave(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Each element along one dimension is repeated; how often may be given for each."""
    x, dim = args[0], argument(args, kwargs, 2, "dim")
    counts = argument(args, kwargs, 1, "repeats")
    if not isinstance(counts, int):
        if dim is None or rank_of(x) != len(shape):
            return None
        return [(x, identity(len(shape), dim)), *lost(shape, counts)]
    copies = Factor(LOST, counts)
    if dim is None:  # of all elements, row by row
        return [(x, (merged([*(Factor(d, n) for d, n in enumerate(x.shape)), copies]),))]
    dims: list[Dim] = list(identity(len(shape)))
    dims[dim] = merged([Factor(dim % len(shape), x.shape[dim]), copies])
    return [(x, tuple(dims))]


def repeated(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """All of the operand is repeated along its dimensions, and along new ones on the left."""
    x, head = args[0], len(shape) - rank_of(args[0])
    if 0 in shape or head < 0:
        return None
    copies = [n // size for n, size in zip(shape[head:], x.shape, strict=True)]
    parts = [merged([Factor(LOST, copies[d]), Factor(d, n)]) for d, n in enumerate(x.shape)]
    return [(x, (*(LOST,) * head, *parts))]


def hstack(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Side by side: along the second dimension, and vectors one after the other."""
    dim = 1 if len(shape) > 1 else 0
    operands = argument(args, kwargs, 0, "tensors")
    return [(x, identity(len(shape), dim)) for x in operands if rank_of(x) == len(shape)]


def vstack(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """One below the other: a vector is a row."""
    pairs = pointwise(shape, (argument(args, kwargs, 0, "tensors"),), {}) or ()
    return [(x, (LOST, *dims[1:])) for x, dims in pairs if dims is not None]


def dstack(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """One behind the other: along the third dimension; a vector is a row of the first two."""
    operands = list(tensors_in(argument(args, kwargs, 0, "tensors")))
    rest = tuple(range(3, len(shape)))
    heads = {0: (LOST, LOST), 1: (LOST, 0)}
    return [(x, (*heads.get(rank_of(x), (0, 1)), LOST, *rest)) for x in operands]


def column_stack(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Side by side: a vector is a column."""
    operands = list(tensors_in(argument(args, kwargs, 0, "tensors")))
    rest = tuple(range(2, len(shape)))
    return [(x, (0 if rank_of(x) else LOST, LOST, *rest)) for x in operands]


def meshgrid(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Each vector has its own dimension; the first two change places for ``"xy"``."""
    given = listed(args)
    places = list(range(len(shape)))
    if kwargs.get("indexing") == "xy" and len(places) > 1:
        places[:2] = [1, 0]
    found = [(x, place) for x, place in zip(given, places, strict=True) if isinstance(x, Tensor)]
    return [
        (x, tuple(0 if d == place and rank_of(x) else LOST for d in range(len(shape))))
        for x, place in found
    ]


def reaching(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """What lies beyond a view in its memory is its base's, or of any part of the view's sources."""
    base = base_of(argument(args, kwargs, 0, "input", "self"))
    return [] if base is None else lost(shape, base)


def own_alone(index: int, args: Args) -> Args:
    """Return the operand of the same number as the result, at its place, and no other."""
    return [item if place == index else None for place, item in enumerate(listed(args))]


OPS = (
    Op("flatten ravel reshape reshape_as squeeze unflatten unsqueeze view view_as", reshape, VIEW),
    Op("squeeze_copy unsqueeze_copy view_copy", reshape),
    Op("VF.atleast_1d VF.atleast_2d VF.atleast_3d", alone, operands=own),
    Op("atleast_1d atleast_2d atleast_3d", alone, VIEW, operands=own),
    Op("swapaxes swapdims transpose", transpose, MOVE),
    Op("transpose_copy", transpose),
    Op("adjoint t get.H get.mH get.mT", last_two, MOVE),
    Op("t_copy", last_two),
    Op("get.T", all_reversed, MOVE),
    Op("permute", permute, MOVE),
    Op("permute_copy", permute),
    Op("moveaxis movedim", movedim, MOVE),
    Op("Tensor.unfold", unfolded, PLAIN),
    Op("as_strided as_strided_copy as_strided_scatter", reaching),
    Op("as_strided_ resize_ resize_as_", reaching),
    Op("unfold_copy", unfolded),
    Op("view_as_real", as_real),
    Op("view_as_complex", as_complex),
    Op("diagonal", diagonal, PART),
    Op("diagonal_copy", diagonal),
    Op("linalg.diagonal", linalg_diagonal),
    Op("diag_embed", embedded, PLAIN),
    Op("diag diagflat", diag, PLAIN),
    Op("select_scatter", select_scatter, Row("input + src [dim] [index]"), reads_numbers=True),
    Op("slice_scatter", slice_scatter, Row("input + src [dim] [start] [end] [step]")),
    Op("diagonal_scatter", diagonal_scatter, Row("input + src [offset] [dim1] [dim2]")),
    Op(
        "repeat_interleave",
        repeat_interleave,
        # The counts alone tell how many there are.
        Row(condition=lambda args, kwargs: argument(args, kwargs, 1, "repeats") is not None),
        escapes=lambda args, kwargs: is_alone(args, kwargs) or besides_first(args, kwargs),
    ),
    Op("repeat tile", repeated, PLAIN),
    Op("hstack", hstack, JOIN),
    Op("row_stack vstack", vstack, JOIN),
    Op("dstack", dstack, JOIN),
    Op("column_stack", column_stack, JOIN),
    Op("block_diag", linear=JOIN),
    Op("VF.meshgrid meshgrid", meshgrid, operands=own_alone),
)
