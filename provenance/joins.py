"""Rules of the ops that put tensors together along a dimension that depends on their rank.

>>> from torch import ones
>>> [dims for _, dims in hstack((2, 2), ([ones(2, 1), ones(2, 1)],), {})]
[(0, -1), (0, -1)]
"""

from collections.abc import Iterable

from torch import Tensor

from ancestral.provenance.alignment import LOST, Shape
from ancestral.provenance.operands import (
    Args,
    Kwargs,
    Pair,
    Rule,
    argument,
    identity,
    rank_of,
    tensors_in,
)
from ancestral.provenance.pointwise import pointwise


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
    """Each vector has a dimension of its own; the first two change places for ``"xy"``."""
    given = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
    places = list(range(len(shape)))
    if kwargs.get("indexing") == "xy" and len(places) > 1:
        places[:2] = [1, 0]
    found = [(x, place) for x, place in zip(given, places, strict=True) if isinstance(x, Tensor)]
    return [
        (x, tuple(0 if d == place and rank_of(x) else LOST for d in range(len(shape))))
        for x, place in found
    ]


TABLE: dict[Rule, str] = {
    hstack: "hstack",
    vstack: "row_stack vstack",
    dstack: "dstack",
    column_stack: "column_stack",
    meshgrid: "VF.meshgrid meshgrid",
}
