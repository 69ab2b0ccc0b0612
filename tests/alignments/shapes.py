"""Reductions, scans, views, joins: what happens to dimensions."""

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, linalg

from alignments.case import Case
from ancestral.provenance.tensor.arguments import NOWHERE


def _mixed(position: str, default: str) -> str:
    return f"mixed along argument {position}, {default} by default"


def _reduced(position: int, default: str) -> str:
    return f"reduced over argument {position}, {default} by default"


def _pair(position: str, default: int) -> str:
    return f"a pair reduced over argument {position}, {default} by default"


_NOWHERE = str(NOWHERE)

REDUCTIONS = [
    *(Case("reduction", f, "bnm", "bn") for f in (lambda x: x.amax(-1), lambda x: x.sum(axis=2))),
    Case("reduction", lambda x: torch.aminmax(x, dim=1), "bnm", "bm"),
    Case("reduction", lambda x: torch.std_mean(x, (0, -1), keepdim=True), "bnm", "_n_"),
    Case("reduction", lambda x: torch.logsumexp(input=x, dim=(1, 0)), "bnm", "m"),
    Case("reduction", lambda x: torch.median(x, dim=-2, keepdim=True), "bnm", "b_m"),
    Case("reduction", lambda x: (x > 0.9).all(dim=1), "bn", "b"),
    Case("reduction", lambda x: torch.sum(x, 0), ".", "."),
    Case("reduction", torch.max, "bn bn", "bn bn"),
    Case(_reduced(1, "(-1,)"), lambda x: torch.mode(x.round()), "bn", "b"),
    Case(_reduced(1, "(-1,)"), lambda x: torch.mode(x.round(), 0, keepdim=True), "bn", "_n"),
    Case(_reduced(2, "(-1,)"), lambda x: torch.kthvalue(x, 1), "bn", "b"),
    Case(_reduced(2, "(-1,)"), lambda x: torch.kthvalue(x, 1, dim=0, keepdim=True), "bn", "_n"),
    Case(_reduced(2, "None"), lambda x: torch.norm(x, 2, 0), "bn", "n"),
    Case(_reduced(2, "None"), lambda x: linalg.vector_norm(x, dim=(-1, 0)), "bnm", "n"),
    Case(_reduced(2, "None"), lambda x: linalg.norm(x, "nuc", (0, 2)), "bnm", "n"),
    Case(_reduced(2, "None"), lambda x: x.norm(dim=-1, keepdim=True), "bn", "b_"),
    Case(_reduced(2, "(-2, -1)"), linalg.matrix_norm, "bnm", "b"),
    Case(_reduced(2, "(-2, -1)"), lambda x: linalg.matrix_norm(x, 2, dim=(0, 1)), "bnm", "m"),
    Case("quantile", lambda x: torch.quantile(x, 0.3, -1), "bn", "b"),
    Case("quantile", lambda x: torch.nanquantile(x, 0.3, dim=0, keepdim=True), "bn", "_n"),
    Case("quantile", lambda x, q: torch.quantile(x, q / 3, dim=1), "bn q", "_b q_"),
    Case(_pair("2", 1), F.cosine_similarity, "bnm nm", "bm _m"),
    Case(_pair("2", 1), partial(torch.cosine_similarity, dim=-1), "bn bn", "b b"),
    Case(_pair(_NOWHERE, -1), linalg.vecdot, "bn n", "b _"),
    Case(_pair(_NOWHERE, -1), partial(linalg.vecdot, dim=0), "bn bn", "n n"),
    Case("x1(d) x2(d)", F.pairwise_distance, "bnd nd", "bn _n"),
    Case("x1(d) x2(d)", lambda x, y: F.pairwise_distance(x, y, keepdim=True), "bd bd", "b_ b_"),
    Case("trapezoid", lambda y, x: torch.trapezoid(y, x, dim=0), "nb nb", "b b"),
    Case("trapezoid", lambda y, x: torch.trapezoid(y, x), "bn n", "b _"),
    Case("trapezoid", lambda y: torch.trapz(y, dx=0.5, dim=-2), "bnm", "bm"),
    Case("summed_to_size", lambda x: x.sum_to_size(x.shape[1], 1), "bnm", "n_"),
]

SCANS = [
    Case("along", lambda x: torch.cumsum(x, 1), "bnm", "b_m"),
    Case("along", lambda x: x.clone().cumprod_(dim=-1), "bn", "b_"),
    Case("along", lambda x: torch.cummax(x, 0), "bn", "_n"),
    Case("along", lambda x: torch.logcumsumexp(x, -1), "bn", "b_"),
    Case("along", lambda x: F.softmax(x, dim=1), "bnm", "b_m"),
    Case("along", lambda x: x.flip(0, -1), "bnm", "_n_"),
    Case(_mixed("1", "(-1,)"), torch.sort, "bn", "b_"),
    Case(_mixed("1", "(-1,)"), lambda x: torch.sort(x, stable=True, dim=0), "bn", "_n"),
    Case(_mixed("1", "(-1,)"), lambda x: F.glu(torch.cat([x, x * x], -1)), "bn", "b_"),
    Case(_mixed("2", "None"), lambda x: torch.roll(x, 1, 1), "bnm", "b_m"),
    Case(_mixed("2", "None"), lambda x: torch.roll(x, (1, 1), dims=(0, -1)), "bnm", "_n_"),
    Case(_mixed("2", "(-1,)"), lambda x: torch.topk(x, 2), "bn", "b_"),
    Case(_mixed("2", "(-1,)"), lambda x: x.topk(1, dim=0), "bn", "_n"),
    Case(_mixed("2", "(0, 1)"), lambda x: torch.rot90(x), "nmb", "__b"),
    Case(_mixed("2", "(0, 1)"), lambda x: torch.rot90(x, 2, (1, 2)), "bnm", "b__"),
    Case(_mixed("2", "(1,)"), F.normalize, "bnm", "b_m"),
    Case(_mixed("4", "(-1,)"), F.gumbel_softmax, "bn", "b_"),
    Case(_mixed(_NOWHERE, "(0,)"), torch.flipud, "bn", "_n"),
    Case(_mixed(_NOWHERE, "(0,)"), torch.msort, "bn", "_n"),
    Case(_mixed(_NOWHERE, "(1,)"), torch.fliplr, "bn", "b_"),
    Case(_mixed(_NOWHERE, "(1,)"), lambda x: F.channel_shuffle(x, 3), "bchw", "b_hw"),
    Case(_mixed(_NOWHERE, "(1,)"), lambda x: F.local_response_norm(x, 2), "bcl", "b_l"),
    Case("normalized", lambda x: F.layer_norm(x, x.shape[1:]), "bnm", "b__"),
    Case("normalized", lambda x, w, b: F.layer_norm(x, w.shape, w, b), "bm m m", "b_ _m _m"),
    Case("normalized", lambda x, w: F.rms_norm(x, w.shape, weight=w), "bm m", "b_ _m"),
    Case(
        "batch_norm",
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
        "bcl c c",
        "_c_ _c_ _c_",
    ),
    Case(
        "batch_norm",
        lambda x, m, v, w: F.batch_norm(x, m, v, weight=w),
        "bcl c c c",
        "bcl _c_ _c_ _c_",
    ),
    Case(
        "batch_norm",
        lambda x, m, v, w: F.batch_norm(x, m.clone(), v.clone(), w, training=True),
        "bcl c c c",
        "_c_ - - _c_",
    ),
    Case(
        "torch_batch_norm",
        lambda x, w, b: torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
        "bcl c c",
        "_c_ _c_ _c_",
    ),
    Case(
        "torch_instance_norm",
        lambda x, w, b: torch.instance_norm(x, w, b, None, None, True, 0.1, 1e-5, False),
        "bcl c c",
        "bc_ _c_ _c_",
    ),
    Case(
        "torch_batch_norm",
        lambda x, w, b, m, v: torch.batch_norm(
            x, w, b, m.clone(), v.clone(), True, 0.1, 1e-5, False
        ),
        "bcl c c c c",
        "_c_ _c_ _c_ - -",
    ),
    Case(
        "torch_instance_norm",
        lambda x, w, b, m, v: torch.instance_norm(
            x, w, b, m.clone(), v.clone(), True, 0.1, 1e-5, False
        ),
        "bcl c c c c",
        "bc_ _c_ _c_ - -",
    ),
    Case("instance_norm", F.instance_norm, "bcl", "bc_"),
    Case(
        "instance_norm", partial(F.instance_norm, use_input_stats=False), "bcl c c", "bcl _c_ _c_"
    ),
    Case(
        "group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), "bcl c c", "b__ _c_ _c_", {"c": 4}
    ),
    Case("group_norm", lambda x: F.group_norm(x, x.shape[1]), "bcl", "bc_"),
    Case("renorm", lambda x: torch.renorm(x, 2, 1, 0.5), "bnm", "_n_"),
    Case("difference", torch.diff, "bn", "b_"),
    Case("difference", lambda x, y: torch.diff(x, dim=0, prepend=y, append=y), "nb nb", "_b _b"),
    Case("summed_up", torch.cumulative_trapezoid, "bn bn", "b_ b_"),
    Case("summed_up", lambda y, x: torch.cumulative_trapezoid(y, x, dim=-1), "bn n", "b_ __"),
    Case("gradient", lambda x: torch.gradient(x, dim=1), "bnm", "b_m"),
    Case("cross", lambda x, y: linalg.cross(x, y), "bc uc", "b_ __", {"c": 3, "u": 1, "b": 4}),
    Case("cross", lambda x, y: torch.cross(x, y, dim=0), "cb cb", "_b _b", {"c": 3}),
]

VIEWS = [
    Case("reshape", lambda x: x.reshape(x.shape[0], 1, -1), "bnm", "b__"),
    Case("transpose", lambda x: x.swapaxes(axis0=0, axis1=-1), "bnm", "mnb"),
    Case("last_two", lambda x: x.mT, "bnm", "bmn"),
    Case("last_two", torch.t, "nm", "mn"),
    Case("all_reversed", lambda x: x.T, "nm", "mn"),
    Case("permute", lambda x: torch.permute(x, dims=(1, -1, 0)), "bnm", "nmb"),
    Case("movedim", lambda x: torch.movedim(x, (0, 1), (-1, 0)), "bnm", "nmb"),
    Case("movedim", lambda x: x.movedim(0, 2), "bnm", "nmb"),
    Case("unfolded", lambda x: x.unfold(1, 2, 1), "bnm", "b_m_"),
    Case("reaching", lambda x: x.as_strided((x.numel(),), (1,)), "bn", "_"),
    Case("reaching", lambda x: (x + 0)[:1].as_strided((x.numel(),), (1,)), "bn", "_"),
    Case("as_real", lambda x: torch.view_as_real(torch.complex(x, x)), "bn", "bn_"),
    Case("as_complex", lambda x: torch.view_as_complex(x), "bnc", "bn", {"c": 2}),
    Case("alone", lambda x: torch.atleast_3d(x), "nm", "nm_"),
    Case("alone", lambda x, y: torch.atleast_3d(y, x)[1], "n m", "_n_ -"),
    Case("alone", lambda x: torch.atleast_2d([x])[0], "n", "_n"),
    Case("diagonal", lambda x: torch.diagonal(x, 0, 0, 2), "nbn", "bn"),
    Case("diagonal", lambda x: x.diagonal(offset=-1), "nm", "_", {"n": 3, "m": 3}),
    Case("diagonal", lambda x: x.diagonal(1), "nm", "n", {"n": 2, "m": 4}),
    Case("linalg_diagonal", linalg.diagonal, "bnn", "bn"),
    Case("embedded", torch.diag_embed, "bn", "bn_"),
    Case("embedded", lambda x: torch.diag_embed(x, 1, 0, 2), "bn", "_b_"),
    Case("diag", torch.diag, "n", "n_"),
    Case("diag", lambda x: torch.diag(x, 1), "nm", "n", {"n": 2, "m": 3}),
    Case("diag", torch.diagflat, "nm", "__"),
    Case("select_scatter", lambda x, y: torch.select_scatter(x, y, 1, -1), "bnm bm", "bnm b_m"),
    Case(
        "slice_scatter",
        partial(torch.slice_scatter, dim=1, start=0, end=1),
        "bn bu",
        "bn b_",
        {"u": 1},
    ),
    Case("diagonal_scatter", torch.diagonal_scatter, "nob bn", "nob n_b", {"n": 3, "o": 3}),
    Case("repeat_interleave", lambda x: x.repeat_interleave(2, 1), "bnm", "b_m"),
    Case(
        "repeat_interleave",
        lambda x: x.repeat_interleave(torch.tensor([2, 0, 1]), dim=1),
        "bn",
        "b_",
        {"n": 3},
    ),
    Case("repeated", lambda x: x.repeat(2, 1, 1), "bn", "_bn"),
    Case("repeated", lambda x: x.repeat(1, 2), "bn", "b_"),
    Case("repeated", lambda x: torch.tile(x, (3,)), "bn", "b_"),
    Case("drawn", lambda x: torch.normal(x, 0.1), "bn", "bn"),
    Case("by_row", lambda x: torch.multinomial(x, x.shape[1], True), "bn", "b_"),
    Case("pointwise", torch.triu, "bnm", "bnm"),
    Case("first_alone", lambda x: x.tensor_split(2, dim=1), "bnm", "b_m"),
    Case("first_alone", lambda x: torch.hsplit(x, [1]), "bn", "b_", {"n": 3}),
    Case("first_alone", lambda x: torch.frexp(x), "bn", "bn"),
    Case("first_alone", lambda x: torch.narrow_copy(x, 1, 0, 1), "bn", "b_"),
]


def _second(pair: tuple[Tensor, ...]) -> Tensor:
    return pair[1]


JOINS = [
    Case("cat", lambda x, y: torch.concat([x, y], dim=-2), "bnm bnm", "b_m b_m"),
    Case("stack", lambda x, y: torch.stack([x, y], -1), "bn bn", "bn_ bn_"),
    Case("hstack", lambda x, y: torch.hstack([x, y]), "bn bn", "b_ b_"),
    Case("hstack", lambda x, y: torch.hstack([x, y]), "n m", "_ _"),
    Case("vstack", lambda x, y: torch.vstack([x, y]), "n mn", "_n _n"),
    Case("dstack", lambda x, y: torch.dstack([x, y]), "n n", "_n_ _n_"),
    Case("dstack", lambda x, y: torch.dstack((x, y)), "bn bnm", "bn_ bn_"),
    Case("column_stack", lambda x, y: torch.column_stack([x, y]), "n nm", "n_ n_"),
    Case("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), "n m", "n_ -"),
    Case("meshgrid", lambda x, y: _second(torch.meshgrid([x, y], indexing="xy")), "n m", "- m_"),
    Case("separately", lambda x, y: torch.broadcast_tensors(x, y), "bn n", "bn -"),
    Case("separately", lambda x, y: _second(torch.broadcast_tensors(x, y)), "bn n", "- _n"),
]
