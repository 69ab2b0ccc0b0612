"""Rules of reductions: sums, means, maxima, norms over some dimensions.

>>> from torch import ones
>>> [dims for _, dims in reduction((2,), (ones(2, 3), 1), {}) or ()]
[(0,)]
"""

from collections.abc import Iterable

from torch import Tensor

from ancestral.provenance.alignment import LOST, Shape
from ancestral.provenance.operands import Args, Kwargs, Pair, Rule, argument, identity, rank_of
from ancestral.provenance.pointwise import pointwise


def reduction(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Dimensions are summed, averaged, maximized ... away, or kept with size one."""
    x, dim = args[0], argument(args, kwargs, 1, "dim", "axis")
    if isinstance(dim, Tensor):
        return pointwise(shape, args, kwargs)  # torch.max(x, y)
    rank = rank_of(x)
    if dim is None or isinstance(dim, bool) or (isinstance(dim, (tuple, list)) and not dim):
        return [(x, (LOST,) * len(shape))]
    gone = {d % rank if rank else 0 for d in ([dim] if isinstance(dim, int) else dim)}
    if len(shape) == rank:
        return [(x, identity(rank, *gone))]
    kept = tuple(d for d in range(rank) if d not in gone)
    return [(x, kept)] if len(kept) == len(shape) else None


def third_reduction(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """As `reduction`, where the dimensions are the third argument: norms."""
    return reduction(shape, args[:1], {"dim": argument(args, kwargs, 2, "dim")})


def paired_reduction(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Two operands of one shape are reduced together: cosine_similarity."""
    dim = argument(args, kwargs, 2, "dim", default=1)
    x, y = args[0], argument(args, kwargs, 1, "x2")
    if tuple(x.shape) != tuple(y.shape):
        return None
    return [pair for t in (x, y) for pair in reduction(shape, (t,), {"dim": dim}) or ()]


TABLE: dict[Rule, str] = {
    reduction: """
        all amax amin any argmax argmin count_nonzero logsumexp max mean median min mode nanmean
        nanmedian nansum prod std std_mean sum var var_mean
    """,
    third_reduction: "norm vector_norm",
    paired_reduction: "cosine_similarity",
}
