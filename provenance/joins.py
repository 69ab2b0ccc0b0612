"""Rules of the ops that put tensors together along a dimension, old or new.

>>> from torch import ones
>>> [dims for _, dims in stack((2, 2), ([ones(2), ones(2)],), {})]
[(-1, 0), (-1, 0)]
"""

from collections.abc import Iterable

from ancestral.provenance.algebra import LOST, Shape
from ancestral.provenance.operands import Args, Kwargs, Pair, Rule, argument, identity, rank_of


def cat(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The dimension that is joined is lost."""
    dim = argument(args, kwargs, 1, "dim", "axis", default=0)
    operands = argument(args, kwargs, 0, "tensors")
    return [(x, identity(len(shape), dim)) for x in operands if rank_of(x) == len(shape)]


def stack(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """A new dimension is inserted that indexes none of an operand's."""
    rank = len(shape)
    dim = argument(args, kwargs, 1, "dim", "axis", default=0) % rank
    alignment = (*range(dim), LOST, *range(dim, rank - 1))
    return [(x, alignment) for x in argument(args, kwargs, 0, "tensors")]


TABLE: dict[Rule, str] = {
    cat: "cat concat concatenate",
    stack: "stack",
}
