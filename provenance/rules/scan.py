"""Rules of the ops that mix the elements along some dimensions and keep the others apart.

>>> from torch import ones
>>> [dims for _, dims in along((2, 3), (ones(2, 3), 1), {}) or ()]
[(0, -1)]
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.linear.build import Row
from ancestral.provenance.linear.rows import MOVE, has_floating, is_kept
from ancestral.provenance.rules.op import Op, Pair, Written, identity, is_count, lost, rank_of
from ancestral.provenance.tensor.arguments import NOWHERE, Args, Kwargs, argument


@dataclass(frozen=True)
class Mixed:
    """The rule of an op that mixes elements along the dimensions that an argument names.

    `position` is the place of that argument, `default` what holds where it is not given.
    """

    position: int
    default: tuple[int, ...] | None = None

    @property
    def __name__(self) -> str:
        """Tell one such rule from another."""
        return f"mixed along argument {self.position}, {self.default} by default"

    def __call__(self, shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
        """Return the first operand without the dimensions along which it is mixed."""
        x = args[0]
        dims = argument(args, kwargs, self.position, "dim", "dims", "axis", default=self.default)
        given = [dims] if isinstance(dims, int) else dims
        if not isinstance(given, (tuple, list)) or rank_of(x) != len(shape):
            return None
        if not given or not all(isinstance(d, int) for d in given):
            return None  # where none is named, all may be: roll
        return [(x, identity(rank_of(x), *given))]


def along(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Elements along one dimension, or some, are mixed; the others stay apart."""
    others = [d for d in args[2:] if type(d) is int]  # flip(0, 1)
    if not others:
        return Mixed(1)(shape, args, kwargs)
    return Mixed(1)(shape, (args[0], (args[1], *others)), {})


def normalized(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The last dimensions are normalized together: layer_norm, rms_norm."""
    rank, gone = len(shape), len(argument(args, kwargs, 1, "normalized_shape"))
    found: list[Pair] = [(args[0], identity(rank, *range(rank - gone, rank)))]
    for position, name in enumerate(("weight", "bias"), start=2):
        scale = argument(args, kwargs, position, name)
        if isinstance(scale, Tensor) and rank_of(scale) == gone:
            found.append((scale, ((LOST,) * (rank - gone) + tuple(range(gone)))))
    return found


_FUNCTIONAL = ("running_mean", "running_var", "weight", "bias")
_OF_TORCH = ("weight", "bias", "running_mean", "running_var")


def batch_norm(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Channels are normalized over the batch in training, by constants in use."""
    return _by_channel(shape, args, kwargs, ("training", False), 0, _FUNCTIONAL)


def torch_batch_norm(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The same, of arguments in another order."""
    return _by_channel(shape, args, kwargs, ("training", False), 0, _OF_TORCH)


def instance_norm(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Channels are normalized over space, one by one, or by constants."""
    return _by_channel(shape, args, kwargs, ("use_input_stats", True), 2, _FUNCTIONAL)


def torch_instance_norm(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """The same, of arguments in another order."""
    return _by_channel(shape, args, kwargs, ("use_input_stats", True), 2, _OF_TORCH)


def _by_channel(
    shape: Shape,
    args: Args,
    kwargs: Kwargs,
    switch: tuple[str, bool],
    first: int,
    names: tuple[str, ...],
) -> list[Pair]:
    """Return what is normalized over dimension `first` and space, if it is, and scaled by channel.

    The running statistics are written then, and not read.
    """
    is_normalized = argument(args, kwargs, 5, switch[0], default=switch[1])
    of_channels: list[Pair] = []
    for position, name in enumerate(names, start=1):
        given = argument(args, kwargs, position, name)
        if isinstance(given, Tensor) and rank_of(given) == 1:
            is_unread = is_normalized is True and name in _FUNCTIONAL[:2]
            of_channels.append((given, None if is_unread else channel(shape)))
    is_constant = is_normalized is False and len(of_channels) >= 2
    gone = () if is_constant else {first, *range(2, len(shape))}
    return [(args[0], identity(len(shape), *gone)), *of_channels]


def group_norm(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Groups of channels are normalized over space, example by example."""
    groups = argument(args, kwargs, 1, "num_groups")
    gone = range(2 if groups == shape[1] else 1, len(shape))
    found: list[Pair] = [(args[0], identity(len(shape), *gone))]
    for position, name in enumerate(("weight", "bias"), start=2):
        scale = argument(args, kwargs, position, name)
        if isinstance(scale, Tensor):
            found.append((scale, channel(shape)))
    return found


def channel(shape: Shape) -> tuple[int, ...]:
    """Return the alignment of a vector that has one element for each channel, dimension 1."""
    return tuple(0 if d == 1 else LOST for d in range(len(shape)))


def renorm(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Each part along one dimension is scaled as a whole."""
    rank = len(shape)
    kept = argument(args, kwargs, 2, "dim") % rank
    return [(args[0], identity(rank, *(d for d in range(rank) if d != kept)))]


def difference(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Neighbours along one dimension are mixed, also with what is put before and after."""
    dim = argument(args, kwargs, 2, "dim", default=-1)
    ends = [argument(args, kwargs, 3, "prepend"), argument(args, kwargs, 4, "append")]
    operands = [t for t in (args[0], *ends) if isinstance(t, Tensor)]
    if not isinstance(dim, int) or any(rank_of(t) != len(shape) for t in operands):
        return None
    return [(t, identity(len(shape), dim)) for t in operands]


def summed_up(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """An integral along one dimension, at each place: cumulative_trapezoid."""
    dim, x = argument(args, kwargs, NOWHERE, "dim", default=-1), argument(args, kwargs, 1, "x")
    if not isinstance(dim, int) or rank_of(args[0]) != len(shape):
        return None
    same = identity(len(shape), dim)
    is_alike = isinstance(x, Tensor) and tuple(x.shape) == tuple(args[0].shape)
    return [(args[0], same), *([(x, same)] if is_alike else lost(shape, x))]


def cross(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Two tensors that meet, as in broadcasting, are multiplied along a dimension of size three.

    Which one that is where none is named, two functions of this name see in two ways.
    """
    x, y = args[0], argument(args, kwargs, 1, "other")
    dim = argument(args, kwargs, 2, "dim")
    rank = len(shape)
    gone = [d for d in range(rank) if shape[d] == 3] if dim is None else [dim % rank]
    found = [(t, rank - rank_of(t)) for t in (x, y)]
    return [
        (t, tuple(LOST if d in gone or d < head else d - head for d in range(rank)))
        for t, head in found
    ]


def gradient(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Neighbours along one dimension are mixed, along each of some in its own result."""
    dims = argument(args, kwargs, NOWHERE, "dim", default=tuple(range(len(shape))))
    return Mixed(1)(shape, (args[0], dims), {})


def is_hard(args: Args, kwargs: Kwargs) -> bool:
    """Return whether `gumbel_softmax` is one-hot, with the derivative of what is not."""
    return bool(argument(args, kwargs, 2, "hard", default=False))


_LATER = ((3, "running_mean"), (4, "running_var"))
_IN_TRAINING = Written(_LATER, (5, "training", False))

OPS = (
    Op("cummax cummin cumprod log_softmax logcumsumexp softmax softmin", along),
    Op("cumsum", along, Row("input", is_kept)),
    Op("flip", along, MOVE),
    Op("argsort glu sort", Mixed(1, (-1,))),
    Op("roll", Mixed(2), MOVE, reads_numbers=True),
    Op("topk", Mixed(2, (-1,))),
    Op("rot90", Mixed(2, (0, 1)), MOVE),
    Op("normalize", Mixed(2, (1,)), kink=is_count),
    Op("gumbel_softmax", Mixed(4, (-1,)), kink=is_hard),
    Op("flipud", Mixed(NOWHERE, (0,)), MOVE),
    Op("msort", Mixed(NOWHERE, (0,))),
    Op("fliplr", Mixed(NOWHERE, (1,)), MOVE),
    Op("channel_shuffle local_response_norm native_channel_shuffle", Mixed(NOWHERE, (1,))),
    Op("layer_norm", normalized, reads_numbers=True),
    Op("rms_norm", normalized),
    Op(
        "functional.batch_norm",
        batch_norm,
        written=Written(((1, "running_mean"), (2, "running_var")), (5, "training", False)),
    ),
    Op("torch.batch_norm", torch_batch_norm, written=_IN_TRAINING),
    Op(
        """
        native_batch_norm _native_batch_norm_legit _batch_norm_impl_index cudnn_batch_norm
        miopen_batch_norm
        """,
        written=_IN_TRAINING,
    ),
    Op(
        "_batch_norm_with_update batch_norm_gather_stats batch_norm_gather_stats_with_counts",
        written=Written(_LATER),
    ),
    Op("batch_norm_update_stats", written=Written(((1, "running_mean"), (2, "running_var")))),
    Op(
        "functional.instance_norm",
        instance_norm,
        written=Written(((1, "running_mean"), (2, "running_var")), (5, "use_input_stats", True)),
    ),
    Op(
        "torch.instance_norm",
        torch_instance_norm,
        written=Written(_LATER, (5, "use_input_stats", True)),
    ),
    Op("group_norm", group_norm),
    Op("renorm renorm_", renorm, kink=is_count),
    Op("diff", difference, Row("input [n] [dim] + prepend + append", has_floating)),
    Op("cumulative_trapezoid", summed_up),
    Op("gradient", gradient),
    Op("cross linalg.cross", cross),
    Op("_cummax_helper _cummin_helper", written=Written(((1, "values"), (2, "indices")))),
)
