"""Space: convolutions, pooling, resizing, and losses."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from alignments.case import Case

_K = {"k": 2, "l": 4}
_LINE, _PLANE, _CUBE = "input(l)", "input(hw)", "input(dhw)"
_SIDE = {"h": 4, "w": 4}
_CUBIC = {"d": 2, "h": 2, "w": 2}
_IJ = {"i": 2, "j": 2}
conv1d, turned = F.conv1d, F.conv_transpose1d
CONVOLUTIONS = [
    Case("convolution", F.conv1d, "bcl ock o", "b__ _o_ _o_", _K),
    Case("convolution", F.conv1d, "cl ock", "__ o_", _K),
    Case("convolution", lambda x, w: conv1d(x, w, padding="same"), "bcl ock", "b__ _o_", _K),
    Case("convolution", F.conv2d, "bchw ocij o", "b_hw _o__ _o__", {"i": 1, "j": 1}),
    Case(
        "convolution", partial(conv1d, stride=2, padding=1), "bcl ock", "b__ _o_", {"k": 1, "l": 3}
    ),
    Case(
        "convolution", lambda x, w: conv1d(x, w, groups=len(w)), "bcl cuk", "bc_ _c_", _K | {"u": 1}
    ),
    Case(
        "convolution",
        partial(conv1d, groups=2),
        "bcl ouk",
        "b__ _o_",
        _K | {"c": 4, "o": 4, "u": 2},
    ),
    Case("convolution", F.conv3d, "bcdhw ocijk", "b____ _o___", _CUBIC | _IJ | {"k": 2}),
]
general = partial(torch.convolution, stride=[1], padding=[0], dilation=[1], output_padding=[0])
SPACE = [
    *CONVOLUTIONS,
    Case("transposed_convolution", turned, "bcl cok o", "b__ _o_ _o_", _K),
    Case("transposed_convolution", turned, "cl cok", "__ o_", _K),
    Case(
        "transposed_convolution",
        partial(turned, groups=2),
        "bcl cok",
        "b__ ___",
        _K | {"c": 4, "o": 2},
    ),
    Case(
        "transposed_convolution",
        partial(F.conv_transpose2d, stride=2),
        "bchw coij",
        "b___ _o__",
        _IJ,
    ),
    Case(
        "general_convolution",
        partial(general, transposed=False, groups=1),
        "bcl ock o",
        "b__ _o_ _o_",
        _K,
    ),
    Case(
        "general_convolution",
        partial(general, bias=None, transposed=True, groups=1),
        "bcl cok",
        "b__ _o_",
        _K,
    ),
    Case("padded", lambda x: F.pad(x, (1, -1)), "bnm", "bn_"),
    Case("padded", lambda x: F.pad(x, (0, 0, -1, 1)), "bnm", "b_m"),
    Case("padded", lambda x: F.pad(x, (1, 1), mode="circular"), "bcl", "bc_"),
    Case("padded", lambda x: F.pad(x, pad=(1, 1), mode="reflect"), "bcl", "bc_"),
    Case("padded", lambda x: F.pad(x, (1, 2, 0, 0), mode="replicate"), "bchw", "bch_"),
    Case("resized", lambda x: F.interpolate(x, scale_factor=2), "bcl", "bc_"),
    Case("resized", lambda x: F.interpolate(x, x.shape[2:], mode="linear"), "bcl", "bc_"),
    Case("resized", lambda x: F.interpolate(x, (3, 3), mode="bicubic"), "bchw", "bc__"),
    Case(
        "resized",
        partial(F.interpolate, size=(4, 4), mode="bilinear", antialias=True),
        "bchw",
        "bc__",
    ),
    Case(
        "grid_sample",
        partial(F.grid_sample, align_corners=False),
        "bchw bijv",
        "bc__ b_ij",
        {"v": 2},
    ),
    Case(
        "affine_grid",
        lambda x: F.affine_grid(x, [len(x), 1, 3, 2], False),
        "bkc",
        "b__k",
        {"k": 2, "c": 3},
    ),
    Case(
        "affine_grid",
        lambda x: F.affine_grid(x, [len(x), 1, 2, 3, 3], False),
        "bkc",
        "b___k",
        {"k": 3, "c": 4},
    ),
    *(
        Case(_LINE, f, "bcl", "bc_", {"l": 4})
        for f in (
            lambda x: F.max_pool1d(x, 2),
            lambda x: F.max_pool1d(x, 3, 1, 1, return_indices=True),
            lambda x: F.avg_pool1d(x, 3, stride=1, padding=1),
            lambda x: F.adaptive_avg_pool1d(x, 4),
            lambda x: F.adaptive_max_pool1d(x, 2, return_indices=True),
            lambda x: F.lp_pool1d(x, 2.0, 2),
        )
    ),
    *(
        Case(_PLANE, f, "bchw", "bc__", _SIDE)
        for f in (
            lambda x: F.max_pool2d(x, 2, ceil_mode=True),
            lambda x: F.max_pool2d(x, 3, 1, 1, 1, return_indices=True),
            lambda x: F.avg_pool2d(x, 2),
            lambda x: F.adaptive_avg_pool2d(x, (4, 1)),
            lambda x: F.adaptive_max_pool2d(x, 2),
            lambda x: F.lp_pool2d(x, 2.0, 2),
            lambda x: F.fractional_max_pool2d(x, 2, 2, return_indices=True),
        )
    ),
    *(
        Case(_CUBE, f, "bcdhw", "bc___", _CUBIC)
        for f in (
            lambda x: F.max_pool3d(x, 2),
            lambda x: F.avg_pool3d(x, 2, 1),
            lambda x: F.adaptive_avg_pool3d(x, 2),
        )
    ),
    Case(_PLANE, lambda x: F.max_pool2d(x, 3, 1, 1), "chw", "c__"),
    Case("input(l) indices(l)", lambda x: F.max_unpool1d(x, _places(x), (2,)), "bcl", "bc_"),
    Case("input(hw) indices(hw)", lambda x: F.max_unpool2d(x, _places(x), (2, 2)), "bchw", "bc__"),
    Case(
        "input(dhw) indices(dhw)",
        lambda x: F.max_unpool3d(x, _places(x), (2,) * 3),
        "bcdhw",
        "bc___",
        _CUBIC,
    ),
    Case("input(chw)", lambda x: F.pixel_shuffle(x, 2), "abchw", "ab___", {"c": 4}),
    Case("input(chw)", lambda x: F.pixel_unshuffle(x, 2), "bchw", "b___", {"h": 4, "w": 2}),
    Case("input(chw)", lambda x: F.unfold(x, 2), "bchw", "b__"),
    Case("input(chw)", lambda x: F.unfold(x, 2, padding=1), "chw", "__"),
    Case("input(kl)", lambda x: F.fold(x, (3, 3), 2), "bkl", "b___", {"k": 4, "l": 4}),
]


def _places(x: Tensor) -> Tensor:
    """Return indices for unpooling: the last shall be the first."""
    space = x.shape[2:]
    return torch.arange(space.numel()).flip(0).reshape(space).expand(x.shape)


def each(loss: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    """Return a loss of each element."""
    return partial(loss, reduction="none", **options)


def _ctc(x: Tensor, t: Tensor) -> Tensor:
    ours, theirs = (torch.full(t.shape[:1], n) for n in (len(x), t.shape[1]))
    return F.ctc_loss(x, t + 1, ours, theirs, reduction="none")


LOSSES = [
    Case("elementwise_loss", each(F.mse_loss), "bn bn", "bn bn"),
    Case("elementwise_loss", F.l1_loss, "bn bn", ". ."),
    Case("elementwise_loss", lambda x, y: torch.kl_div(x, y, 1), "bn bn", ". ."),
    Case(
        "elementwise_loss",
        lambda x, y, t: each(F.margin_ranking_loss)(x, y, t - 1),
        "bn bn bn",
        "bn bn bn",
    ),
    Case("gaussian_loss", each(F.gaussian_nll_loss), "bn bn b", "bn bn b_"),
    Case("gaussian_loss", each(F.gaussian_nll_loss, full=True), "bn bn bu", "bn bn b_", {"u": 1}),
    Case("gaussian_loss", F.gaussian_nll_loss, "bn bn bn", ". . ."),
    Case("class_loss", each(F.cross_entropy), "bcl bl#c", "bl bl"),
    Case("class_loss", each(F.cross_entropy), "bcl bcl", "bl bl"),
    Case("class_loss", each(F.nll_loss), "bc b#c c", "b b _"),
    Case("class_loss", F.cross_entropy, "bc b#c", ". ."),
    Case("ctc_loss", _ctc, "tbc bs#e", "b b", {"t": 5, "s": 2, "c": 3, "e": 2}),
    Case(
        "x1(d) x2(d) target() -> ()",
        lambda x, y, t: each(F.cosine_embedding_loss)(x, y, t.sign()),
        "bd bd b",
        "b b b",
    ),
    Case(
        "anchor(d) positive(d) negative(d) -> ()",
        each(F.triplet_margin_loss, swap=True),
        "bd bd bd",
        "b b b",
    ),
    Case("input(c) target(c) -> ()", each(F.multilabel_soft_margin_loss), "bc bc", "b b"),
    Case(
        "input(c) target(c) -> ()",
        lambda x: each(F.multilabel_margin_loss)(x, torch.zeros_like(x).long()),
        "bc",
        "b",
    ),
    Case("input(c) target() -> ()", each(F.multi_margin_loss), "bc b#c", "b b"),
]
