"""Rules of the ops that mix the elements along some dimensions and keep the shape.

>>> from torch import ones
>>> [dims for _, dims in along((2, 3), (ones(2, 3), 1), {}) or ()]
[(0, -1)]
"""

from collections.abc import Iterable

from ancestral.provenance.alignment import Shape
from ancestral.provenance.operands import Args, Kwargs, Pair, Rule, argument, identity, rank_of


def along(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Elements along one dimension, or some, are mixed; the others stay apart."""
    x, dim = args[0], argument(args, kwargs, 1, "dim", "dims", "axis")
    if not isinstance(dim, (int, tuple, list)) or rank_of(x) != len(shape):
        return None
    others = [d for d in args[2:] if type(d) is int]  # flip(0, 1)
    return [(x, identity(rank_of(x), *others, *([dim] if isinstance(dim, int) else dim)))]


def along_last(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """As `along`, where the dimension is the last by default."""
    dim = argument(args, kwargs, 1, "dim", default=-1)
    return along(shape, args[:1], {"dim": dim})


def third_along(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """As `along`, where the dimensions are the third argument: roll, renorm."""
    dim = argument(args, kwargs, 2, "dim", "dims")
    return along(shape, args[:1], {"dim": dim})


def normalized(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The last dimensions are normalized together: layer_norm, rms_norm."""
    gone = len(argument(args, kwargs, 1, "normalized_shape"))
    return [(args[0], identity(len(shape), *range(len(shape) - gone, len(shape))))]


TABLE: dict[Rule, str] = {
    along: "cummax cummin cumprod cumsum flip log_softmax logcumsumexp softmax softmin",
    along_last: "argsort glu sort",
    third_along: "kthvalue normalize roll topk",
    normalized: "layer_norm rms_norm",
}
