"""Rules of the losses that are not elementwise.

>>> from torch import ones
>>> x, target = ones(2, 3, 4), ones(2, 4)
>>> [dims for _, dims in class_loss((2, 4), (x, target), {}) or ()]
[(0, 2), (0, 1)]
"""

from collections.abc import Iterable

from torch import Tensor

from ancestral.provenance.alignment import LOST, Shape
from ancestral.provenance.operands import Args, Kwargs, Pair, Rule, argument, identity, rank_of
from ancestral.provenance.pointwise import pointwise
from ancestral.provenance.signatures import Signature


def elementwise_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element, with broadcasting, unless the elements are summed."""
    return pointwise(shape, args, kwargs)


def gaussian_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Element by element, where a variance without the last dimension stands for all along it."""
    x, variance = args[0], argument(args, kwargs, 2, "var")
    pairs = pointwise(shape, (x, argument(args, kwargs, 1, "target")), {})
    if pairs is None or not isinstance(variance, Tensor):
        return pairs  # reduced, or with a variance that is a number
    is_short = tuple(variance.shape) == tuple(x.shape[:-1]) != tuple(x.shape)
    short: Pair = (variance, (*range(rank_of(variance)), LOST))
    return [*pairs, *([short] if is_short else pointwise(shape, (variance,), {}) or ())]


def class_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Losses over the classes in dimension 1, one for each example and place."""
    x, target = args[0], argument(args, kwargs, 1, "target")
    if rank_of(x) != len(shape) + 1:
        return None  # reduced
    kept = tuple(range(rank_of(x)))
    kept = kept[:1] + kept[2:] if rank_of(x) > 1 else ()
    return [(x, kept), (target, kept if rank_of(target) == rank_of(x) else identity(len(shape)))]


def ctc_loss(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """One loss for each example, which is dimension 1 of the input, after time."""
    names = enumerate(("log_probs", "targets", "input_lengths", "target_lengths"))
    x, targets, *lengths = (argument(args, kwargs, position, name) for position, name in names)
    if len(shape) != 1 or rank_of(x) != 3:
        return None  # reduced, or a single example
    rows: list[Pair] = [(targets, (0,))] if rank_of(targets) == 2 else []
    return [(x, (1,)), *rows, *((t, (0,)) for t in lengths if isinstance(t, Tensor))]


TABLE: dict[Rule, str] = {
    elementwise_loss: """
        binary_cross_entropy binary_cross_entropy_with_logits hinge_embedding_loss huber_loss
        kl_div l1_loss margin_ranking_loss mse_loss poisson_nll_loss smooth_l1_loss
        soft_margin_loss
    """,
    gaussian_loss: "gaussian_nll_loss",
    class_loss: """
        cross_entropy nll_loss nn.cross_entropy_loss nn.nll_loss2d nn.nll_loss_nd
    """,
    ctc_loss: "ctc_loss",
    Signature("x1(d) x2(d) target() -> ()"): "cosine_embedding_loss",
    Signature("anchor(d) positive(d) negative(d) -> ()"): "triplet_margin_loss",
    Signature("input(c) target(c) -> ()"): "multilabel_margin_loss multilabel_soft_margin_loss",
    Signature("input(c) target() -> ()"): "multi_margin_loss",
}
