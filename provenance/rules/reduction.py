"""Rules of reductions: sums, means, maxima, norms, integrals over some dimensions.

>>> from torch import ones
>>> [dims for _, dims in reduction((2,), (ones(2, 3), 1), {}) or ()]
[(0,)]
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Dims, Shape
from ancestral.provenance.linear.build import Row
from ancestral.provenance.linear.rows import CONTRACTION, PLAIN, averaged, is_total
from ancestral.provenance.rules.op import (
    Op,
    Pair,
    Signature,
    identity,
    is_count,
    is_count_of_pairs,
    lost,
    rank_of,
)
from ancestral.provenance.rules.pointwise import pointwise
from ancestral.provenance.tensor.arguments import NOWHERE, Args, Kwargs, argument


@dataclass(frozen=True)
class Reduced:
    """The rule of a reduction over the dimensions that an argument names.

    `position` is the place of that argument, `default` what holds where it is not given: None for
    all dimensions.
    """

    position: int
    default: tuple[int, ...] | None = None

    @property
    def __name__(self) -> str:
        """Tell one such rule from another."""
        return f"reduced over argument {self.position}, {self.default} by default"

    def __call__(self, shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
        """Return the first operand without the dimensions that are reduced."""
        dims = argument(args, kwargs, self.position, "dim", "axis", default=self.default)
        return reduction(shape, (args[0], dims), {})


def reduction(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Dimensions are summed, averaged, maximized ... away, or kept with size one."""
    x, dim = args[0], argument(args, kwargs, 1, "dim", "axis")
    if isinstance(dim, Tensor):
        return pointwise(shape, args, kwargs)  # torch.max(x, y)
    rank = rank_of(x)
    if dim is None or isinstance(dim, bool) or (isinstance(dim, (tuple, list)) and not dim):
        return [(x, (LOST,) * len(shape))]
    kept = _kept(rank, len(shape), [dim] if isinstance(dim, int) else dim)
    return None if kept is None else [(x, kept)]


def _kept(rank: int, left: int, dims: Iterable[int]) -> Dims | None:
    """Return which of some dimensions are `left` after a reduction; None for another number."""
    gone = {d % rank if rank else 0 for d in dims}
    if left == rank:
        return identity(rank, *gone)
    kept = tuple(d for d in range(rank) if d not in gone)
    return kept if len(kept) == left else None


def quantile(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Some quantiles along a dimension stand along a new one, the first; a single one in none."""
    x, q = args[0], argument(args, kwargs, 1, "q")
    dim = argument(args, kwargs, 2, "dim")
    more = (LOST,) * (rank_of(q) if isinstance(q, Tensor) else 0)
    found = Reduced(1)(shape[len(more) :], (x, dim), {})
    chosen = (*range(len(more)), *(LOST,) * (len(shape) - len(more)))
    pairs: list[Pair] = [(t, None if d is None else (*more, *d)) for t, d in found or ()]
    return [*pairs, *([(q, chosen)] if isinstance(q, Tensor) else [])] if pairs else None


@dataclass(frozen=True)
class PairReduced:
    """The rule of two operands that meet, as in broadcasting, and are reduced along a dimension."""

    position: int
    default: int

    @property
    def __name__(self) -> str:
        """Tell one such rule from another."""
        return f"a pair reduced over argument {self.position}, {self.default} by default"

    def __call__(self, shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
        """Return both operands without the dimension of their common shape that is reduced."""
        x, y = args[0], argument(args, kwargs, 1, "x2", "y", "other")
        dim = argument(args, kwargs, self.position, "dim", default=self.default)
        rank = max(rank_of(x), rank_of(y))
        kept = _kept(rank, len(shape), [dim]) if rank else None
        if kept is None:
            return None
        found = ((t, rank - rank_of(t)) for t in (x, y))
        return [
            (t, tuple(d - head if isinstance(d, int) and d >= head else LOST for d in kept))
            for t, head in found
        ]


def trapezoid(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """An integral along one dimension over places of the same shape, or over other ones."""
    y, x = args[0], argument(args, kwargs, 1, "x")
    dim = argument(args, kwargs, NOWHERE, "dim", default=-1)
    is_alike = isinstance(x, Tensor) and tuple(x.shape) == tuple(y.shape)
    found = [
        pair
        for t in ((y, x) if is_alike else (y,))
        for pair in Reduced(1)(shape, (t, dim), {}) or ()
    ]
    return found + ([] if is_alike else lost(shape, x)) if found else None


def summed_to_size(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Dimensions that have another size, and those in front of the result's, are summed."""
    rank = rank_of(args[0])
    return [(args[0], tuple(range(rank - len(shape), rank)))]


OPS = (
    Op(
        """
        all amax amin aminmax any argmax argmin count_nonzero logsumexp max median min nanmean
        nanmedian nansum prod std std_mean var var_mean frobenius_norm nuclear_norm
        """,
        reduction,
    ),
    Op("sum mean", reduction, Row("input", is_total, averaged, is_static=True)),
    Op("mode", Reduced(1, (-1,)), kink=True),
    Op("kthvalue", Reduced(2, (-1,))),
    Op("norm linalg.norm linalg.vector_norm", Reduced(2), kink=is_count),
    Op("linalg.matrix_norm", Reduced(2, (-2, -1))),
    Op("nanquantile quantile", quantile),
    Op("cosine_similarity", PairReduced(2, 1)),
    Op("linalg.vecdot", PairReduced(NOWHERE, -1), CONTRACTION),
    Op("pairwise_distance", Signature("x1(d) x2(d)"), kink=is_count_of_pairs),
    Op("pdist", kink=is_count),
    Op("dist", kink=is_count_of_pairs),
    Op("trapezoid trapz", trapezoid),
    Op("sum_to_size", summed_to_size, PLAIN),
    Op("trace", linear=PLAIN),
    Op("histogram histogramdd", kink=True),
    Op("histc bincount", kink=True, escapes=True),
)
