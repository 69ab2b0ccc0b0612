"""Rules of picking elements and of putting them: along a dimension by an index, from a table.

>>> from torch import ones
>>> [dims for _, dims in index_select((2, 4), (ones(2, 3), 1, ones(4)), {})]
[(0, -1), (-1, 0)]
"""

from collections.abc import Iterable

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Alignment, Shape, Step, Window
from ancestral.provenance.linear.build import Row
from ancestral.provenance.linear.rows import PLAIN, is_sum
from ancestral.provenance.rules.op import Op, Pair, Written, besides_first, identity, lost, rank_of
from ancestral.provenance.tensor.arguments import Args, Kwargs, argument, tensors_in
from ancestral.provenance.tensor.known_index import Run, known_runs


def gather(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Elements are picked along one dimension; the others of operand and index run together."""
    dim = argument(args, kwargs, 1, "dim")
    index = argument(args, kwargs, 2, "index")
    rank = len(shape)
    if rank_of(args[0]) != rank:
        return []  # a scalar, or an index that picks nothing
    return [(args[0], identity(rank, dim)), (index, identity(rank))]


def take_along_dim(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """As `gather`, with the index before the dimension."""
    index, dim = argument(args, kwargs, 1, "indices"), argument(args, kwargs, 2, "dim")
    return [] if dim is None else gather(shape, (args[0], dim, index), {})


def scatter(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Elements are put somewhere along one dimension; the others run together."""
    dim, index = argument(args, kwargs, 1, "dim"), argument(args, kwargs, 2, "index")
    source, rank = argument(args, kwargs, 3, "src", "value"), len(shape)
    operands = [t for t in (index, source) if isinstance(t, Tensor) and rank_of(t)]
    if any(rank_of(t) != rank for t in operands) or not rank:
        return None
    scalars = lost(shape, [t for t in tensors_in(source) if not rank_of(t)])
    return [(args[0], identity(rank)), *((t, identity(rank, dim)) for t in operands), *scalars]


def index_select(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Elements are picked along one dimension by their own index."""
    rank, index = len(shape), argument(args, kwargs, 2, "index")
    if not rank:
        return []
    x, dim = args[0], argument(args, kwargs, 1, "dim") % rank
    chosen = tuple(0 if d == dim and rank_of(index) else LOST for d in range(rank))
    runs = known_runs(index, x, x.shape[dim])
    steps: list[Step] = [Alignment(identity(rank), *_windows(dim, run)) for run in runs]
    return [*((x, step) for step in steps or [identity(rank, dim)]), (index, chosen)]


def index_add(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Slices along one dimension are put where an index says: the others stay apart."""
    rank, source = len(shape), argument(args, kwargs, 3, "source", "tensor2", "value")
    if not rank:
        return None
    x, dim = args[0], argument(args, kwargs, 1, "dim") % rank
    index = argument(args, kwargs, 2, "index")
    found: list[Pair] = [(x, identity(rank)), *lost(shape, index)]
    if isinstance(source, Tensor):
        is_alike = rank_of(source) == rank  # else it is one number for all
        dims = identity(rank) if is_alike else (LOST,) * rank
        steps: list[Step] = []
        for run in known_runs(index, x, shape[dim]):
            there, here = _windows(dim, run)
            steps.append(Alignment(dims, here, there if is_alike else ()))
        gone = identity(rank, dim) if is_alike else dims
        found.extend((source, step) for step in steps or [gone])
    return found


def _windows(dim: int, run: Run) -> tuple[tuple[Window], tuple[Window]]:
    """Return where a run is along the dimension of the index, and where along that it is of."""
    here, there = (dim, run.at, run.at + run.size), (dim, run.first, run.first + run.size)
    return (here,), (there,)


def take(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Each index picks from all elements."""
    index = argument(args, kwargs, 1, "index")
    return [(index, identity(len(shape))), *lost(shape, args[0])]


def put(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """What was there stays where it was; what comes in may be put anywhere."""
    others = [*args[1:], *(kwargs[name] for name in kwargs if name != "input")]
    head = (LOST,) * (len(shape) - rank_of(args[0]))
    return [(args[0], (*head, *range(rank_of(args[0])))), *lost(shape, *others)]


def appended(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Every element becomes a vector: one_hot."""
    x = argument(args, kwargs, 0, "input")
    return [(x, (*range(rank_of(x)), LOST))]


def is_counted(args: Args, kwargs: Kwargs) -> bool:
    """Return whether the largest value tells how long the vectors are."""
    return bool(argument(args, kwargs, 1, "num_classes", default=-1) == -1)


def embedding(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Every element picks a row of a table; the rows are scaled first where a norm is given."""
    x, table = argument(args, kwargs, 0, "input"), argument(args, kwargs, 1, "weight")
    column = LOST if has_max_norm(args, kwargs) else 1
    return [(x, (*range(rank_of(x)), LOST)), (table, (*(LOST,) * rank_of(x), column))]


def table_first(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """As `embedding`, with the table before the indices: `torch.embedding`."""
    indices = argument(args, kwargs, 1, "indices")
    return embedding(shape, (indices, argument(args, kwargs, 0, "weight")), {})


def embedding_bag(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Rows of a table are summed for each row of indices, if the bags are rows."""
    x, weights = args[0], argument(args, kwargs, 8, "per_sample_weights")
    if rank_of(x) != 2:
        return None
    return [(t, (0, LOST)) for t in (x, weights) if isinstance(t, Tensor)]


def has_max_norm(args: Args, kwargs: Kwargs) -> bool:
    """Return whether rows are scaled, of which autograd does not know."""
    return argument(args, kwargs, 3, "max_norm") is not None


_RENORMALIZED = Written(((1, "weight"),), (3, "max_norm", False))

OPS = (
    Op("gather", gather, PLAIN),
    Op("take_along_dim", take_along_dim, PLAIN),
    Op("scatter scatter_ scatter_add_ scatter_reduce scatter_reduce_", scatter),
    Op("scatter_add", scatter, Row("input [dim] [index] + src", is_sum)),
    Op("index_select", index_select, PLAIN),
    Op("index_add", index_add, Row("input [dim] [index] + source", is_sum), reads_numbers=True),
    Op("index_copy index_fill", index_add, reads_numbers=True),
    Op("index_add_ index_copy_ index_fill_ index_reduce index_reduce_", index_add),
    Op("take", take, PLAIN),
    Op("masked_select", linear=PLAIN, escapes=besides_first),
    Op("masked_scatter masked_scatter_ put put_", put),
    Op("one_hot", appended, escapes=is_counted),
    Op("functional.embedding", embedding, kink=has_max_norm, written=_RENORMALIZED),
    Op("torch.embedding", table_first),
    Op("functional.embedding_bag", embedding_bag, kink=has_max_norm, written=_RENORMALIZED),
    Op("nonzero nonzero_static argwhere", escapes=True),
    Op("unique unique_consecutive", kink=True, escapes=True),
)
