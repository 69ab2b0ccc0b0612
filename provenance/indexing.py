"""Rules of picking elements by an index, and from a table.

>>> from torch import ones
>>> [dims for _, dims in index_select((2, 4), (ones(2, 3), 1, ones(4)), {})]
[(0, -1)]
"""

from collections.abc import Iterable

from ancestral.provenance.alignment import LOST, Shape
from ancestral.provenance.operands import (
    Args,
    Kwargs,
    Pair,
    Rule,
    argument,
    identity,
    rank_of,
)


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
    gather: "gather",
    index_select: "index_select",
    appended: "embedding one_hot",
}
