"""Rules of what slides over space: convolutions, pooling, padding.

>>> from torch import ones
>>> [dims for _, dims in batched((5, 2, 3), (ones(5, 2, 4), ones(2, 2, 2)), {}) or ()]
[(0, -1, -1)]
"""

from collections.abc import Iterable

from ancestral.provenance.alignment import LOST, Shape
from ancestral.provenance.operands import Args, Kwargs, Pair, Rule, argument, identity, rank_of


def batched(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Only the batch survives: convolutions, whose input has the rank of the weight if batched."""
    x, weight = args[0], argument(args, kwargs, 1, "weight")
    return [(x, (0, *(LOST,) * (len(shape) - 1)))] if rank_of(x) == rank_of(weight) else None


def padded(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The last dimensions move; the others stay."""
    moved = len(argument(args, kwargs, 1, "pad")) // 2
    return [(args[0], identity(len(shape), *range(len(shape) - moved, len(shape))))]


TABLE: dict[Rule, str] = {
    batched: """
        conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    """,
    padded: "pad",
}
