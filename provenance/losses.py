"""Rules of the losses that are not elementwise.

>>> from torch import ones
>>> x, target = ones(2, 3, 4), ones(2, 4)
>>> [dims for _, dims in class_loss((2, 4), (x, target), {}) or ()]
[(0, 2), (0, 1)]
"""

from collections.abc import Iterable

from ancestral.provenance.alignment import Shape
from ancestral.provenance.operands import Args, Kwargs, Pair, Rule, argument, identity, rank_of


def class_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Losses over the classes in dimension 1, one for each example and place."""
    x, target = args[0], argument(args, kwargs, 1, "target")
    if rank_of(x) != len(shape) + 1:
        return None  # reduced
    kept = tuple(range(rank_of(x)))
    kept = kept[:1] + kept[2:] if rank_of(x) > 1 else ()
    return [(x, kept), (target, kept if rank_of(target) == rank_of(x) else identity(len(shape)))]


TABLE: dict[Rule, str] = {
    class_loss: "cross_entropy nll_loss",
}
