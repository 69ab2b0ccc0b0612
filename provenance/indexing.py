"""Rules of picking elements: by numbers and slices, by an index, from a table.

>>> from torch import ones
>>> [dims for _, dims in select((2, 4), (ones(2, 3, 4), 1, 0), {})]
[(0, 2)]
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra import LOST, Shape
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


def select(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """One dimension is dropped: select, unbind."""
    rank, dim = rank_of(args[0]), argument(args, kwargs, 1, "dim", default=0)
    return [(args[0], tuple(d for d in range(rank) if d != dim % rank))]


def getitem(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Slices keep a dimension, integers drop it, None inserts one; anything else has no rule."""
    x, index = args
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    if not all(
        item is None or item is Ellipsis or type(item) is int or isinstance(item, slice)
        for item in items
    ):
        return None
    if any(isinstance(item, slice) and any(True for _ in tensors_in(item)) for item in items):
        return None
    consumed = sum(1 for item in items if item is not None and item is not Ellipsis)
    if Ellipsis not in items:
        items.append(Ellipsis)
    dims: list[int] = []
    at = 0
    for item in items:
        if item is None:
            dims.append(LOST)
        elif item is Ellipsis:
            width = rank_of(x) - consumed
            dims.extend(range(at, at + width))
            at += width
        else:
            if isinstance(item, slice):
                dims.append(at)
            at += 1
    return [(x, tuple(dims))]


def setitem(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """What was there before stays where it was; so does what a mask of the same shape chooses."""
    index, same = args[1], identity(len(shape))
    found: list[Pair] = [(t, (LOST,) * len(shape)) for t in tensors_in(args[2])]
    if isinstance(index, Tensor) and index.dtype == torch.bool and rank_of(index) == len(shape):
        found.append((index, same))
    return [(args[0], same), *found]


def gather(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Elements are picked along one dimension; the others of operand and index run together."""
    dim = argument(args, kwargs, 1, "dim")
    index = argument(args, kwargs, 2, "index")
    rank = len(shape)
    if rank_of(args[0]) != rank:
        return []  # a scalar, or an index that picks nothing
    return [(args[0], identity(rank, dim)), (index, identity(rank))]


def index_select(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Elements are picked along one dimension by an index of their own."""
    return [(args[0], identity(len(shape), argument(args, kwargs, 1, "dim")))]


def appended(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Every element becomes a vector: one_hot, embedding (whose table has no rule)."""
    x = argument(args, kwargs, 0, "input")
    return [(x, (*range(rank_of(x)), LOST))]


def table_first(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """As `appended`, with the table before the indices: `torch.embedding`, unlike functional's."""
    return appended(shape, (argument(args, kwargs, 1, "indices"),), {})


TABLE: dict[Rule, str] = {
    select: "select unbind",
    getitem: "__getitem__",
    setitem: "__setitem__",
    gather: "gather",
    index_select: "index_select",
    appended: "embedding one_hot",
}
