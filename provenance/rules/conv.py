"""Rules of what slides over space: convolutions, pooling, resizing, padding.

The batch stays, if there is one, and so do channels that are not mixed.

>>> from torch import ones
>>> [dims for _, dims in convolution((5, 2, 3), (ones(5, 2, 4), ones(2, 2, 2)), {}) or ()]
[(0, -1, -1), (-1, 0, -1)]
"""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.linear.build import Row
from ancestral.provenance.rules.op import Op, Pair, Signature, besides_first, identity, rank_of
from ancestral.provenance.tensor.arguments import Args, Kwargs, argument


def convolution(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Each channel of the result has its own row of the weight and its own bias."""
    groups = argument(args, kwargs, 6, "groups", default=1)
    return _convolved(shape, args, kwargs, 0, groups)


def transposed_convolution(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Each channel of the result has its own column of the weight, unless there are groups."""
    groups = argument(args, kwargs, 6, "groups", default=1)
    return _convolved(shape, args, kwargs, 1, groups)


def general_convolution(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Either of both, as an argument tells: torch.convolution."""
    is_transposed = bool(argument(args, kwargs, 6, "transposed"))
    return _convolved(shape, args, kwargs, int(is_transposed), argument(args, kwargs, 8, "groups"))


def _convolved(
    shape: Shape, args: Args, kwargs: Kwargs, row: int, groups: Any
) -> Iterable[Pair] | None:
    """Return the alignments of input, weight and bias; the weight's dimension `row` is kept."""
    x, weight = args[0], argument(args, kwargs, 1, "weight")
    bias, stride = argument(args, kwargs, 2, "bias"), argument(args, kwargs, 3, "stride", default=1)
    batch, space = rank_of(x) - rank_of(weight) + 1, rank_of(weight) - 2
    if batch not in (0, 1) or len(shape) != rank_of(x):
        return None
    # A kernel of size one that moves by one works place by place; with padding, sizes differ.
    given = [stride] if isinstance(stride, int) else stride
    strides = [*given] * space if isinstance(given, (tuple, list)) else [0] * space
    kept = [
        batch + 1 + d if (weight.shape[2 + d], strides[d]) == (1, 1) else LOST for d in range(space)
    ]
    is_apart = groups == x.shape[batch] and groups == shape[batch]
    channel = batch if is_apart else LOST
    found: list[Pair] = [(x, (*range(batch), channel, *kept))]
    for t, dim in ((weight, row), (bias, 0)):
        if isinstance(t, Tensor) and rank_of(t) > dim:
            is_row = t is bias or row == 0 or groups == 1
            found.append((t, _at(batch, dim if is_row else LOST, len(shape))))
    return found


def _at(place: int, dim: int, rank: int) -> tuple[int, ...]:
    """Return the alignment in which one dimension of the result indexes `dim`."""
    return tuple(dim if d == place else LOST for d in range(rank))


def padded(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """The last dimensions move where something is put before or taken away; the others stay."""
    pad, rank = argument(args, kwargs, 1, "pad", "padding"), len(shape)
    if not isinstance(pad, (tuple, list)) or not all(isinstance(width, int) for width in pad):
        return None
    moved = [rank - 1 - i for i in range(len(pad) // 2) if any(pad[2 * i : 2 * i + 2])]
    return [(args[0], identity(rank, *moved))]


def resized(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Batch and channels stay: interpolate, adaptive pooling of each channel."""
    return [(args[0], (0, 1, *(LOST,) * (len(shape) - 2)))]


def grid_sample(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Channels are read at places of their example's own; each place has its own coordinates."""
    x, grid = args[0], argument(args, kwargs, 1, "grid")
    space = len(shape) - 2
    return [(x, (0, 1, *(LOST,) * space)), (grid, (0, LOST, *range(1, space + 1)))]


def affine_grid(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """Each example has its own map, each coordinate a row of that map."""
    rank = len(shape)
    return [(args[0], (0, *(LOST,) * (rank - 2), 1))]


def is_zero_padding(args: Args, kwargs: Kwargs) -> bool:
    """Return whether nothing but zeros is put around."""
    mode = argument(args, kwargs, 2, "mode", default="constant")
    return mode != "constant" or not argument(args, kwargs, 3, "value")


def is_nearest(args: Args, kwargs: Kwargs) -> bool:
    """Return whether places on a grid are rounded."""
    mode = argument(args, kwargs, 2, "mode", "interpolation_mode", default="bilinear")
    return mode in ("nearest", 1)


OPS = (
    Op("conv1d conv2d conv3d", convolution),
    Op("conv_transpose1d conv_transpose2d conv_transpose3d", transposed_convolution),
    Op("torch.convolution", general_convolution),
    Op("functional.pad", padded, Row("input", is_zero_padding)),
    Op(
        """
        nn.pad constant_pad_nd reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
        replication_pad2d replication_pad3d
        """,
        padded,
    ),
    Op("interpolate", resized, escapes=besides_first),
    Op(
        """
        upsample upsample_bilinear upsample_nearest nn._upsample_bicubic2d_aa
        nn._upsample_bilinear2d_aa nn._upsample_nearest_exact1d nn._upsample_nearest_exact2d
        nn._upsample_nearest_exact3d nn.upsample_bicubic2d nn.upsample_bilinear2d
        nn.upsample_linear1d nn.upsample_nearest1d nn.upsample_nearest2d nn.upsample_nearest3d
        nn.upsample_trilinear3d
        """,
        resized,
    ),
    Op("grid_sample grid_sampler grid_sampler_2d grid_sampler_3d", grid_sample, kink=is_nearest),
    Op("affine_grid affine_grid_generator", affine_grid),
    Op(
        """
        adaptive_avg_pool1d adaptive_max_pool1d adaptive_max_pool1d_with_indices avg_pool1d
        max_pool1d max_pool1d_with_indices
        """,
        Signature("input(l)"),
    ),
    Op("lp_pool1d", Signature("input(l)"), escapes=besides_first),
    Op(
        """
        adaptive_avg_pool2d adaptive_max_pool2d adaptive_max_pool2d_with_indices avg_pool2d
        max_pool2d max_pool2d_with_indices
        """,
        Signature("input(hw)"),
    ),
    Op(
        "fractional_max_pool2d fractional_max_pool2d_with_indices lp_pool2d",
        Signature("input(hw)"),
        escapes=besides_first,
    ),
    Op(
        """
        adaptive_avg_pool3d adaptive_max_pool3d adaptive_max_pool3d_with_indices avg_pool3d
        max_pool3d max_pool3d_with_indices
        """,
        Signature("input(dhw)"),
    ),
    Op(
        "fractional_max_pool3d fractional_max_pool3d_with_indices lp_pool3d",
        Signature("input(dhw)"),
        escapes=besides_first,
    ),
    Op("max_unpool1d", Signature("input(l) indices(l)")),
    Op("max_unpool2d", Signature("input(hw) indices(hw)")),
    Op("max_unpool3d", Signature("input(dhw) indices(dhw)")),
    Op("functional.unfold nn.im2col pixel_shuffle pixel_unshuffle", Signature("input(chw)")),
    Op("functional.fold nn.col2im", Signature("input(kl)")),
)
