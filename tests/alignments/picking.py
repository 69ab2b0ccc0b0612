"""Picking and putting: by an index along a dimension, by subscripts, from tables; elementwise."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from alignments.case import Case


def put(x: Tensor, index: Any, value: Any) -> Tensor:
    """Return a copy of a tensor with a value put in."""
    copy = x.clone()
    copy[index] = value
    return copy


def rows(x: Tensor, *after: int) -> Tensor:
    """Return the indices of the first dimension, as a tensor with more dimensions of size one."""
    return torch.arange(len(x)).reshape(-1, *after)


INDEXING = [
    Case("select", lambda x: x.select(1, -1), "bnm", "bm"),
    Case("select", lambda x: x.unbind(-1), "bnm", "bn"),
    Case("narrow", lambda x: x.narrow(1, 1, 2), "bnm", "b_m", {"n": 4}),
    Case("gather", lambda x, i: x.gather(1, i), "bnm bnm#n", "b_m bnm"),
    Case("gather", lambda x, i: torch.gather(x, dim=-1, index=i), "bn bm#n", "b_ bm"),
    Case("take_along_dim", partial(torch.take_along_dim, dim=1), "bnm unm#n", "b_m _nm", {"u": 1}),
    Case("take_along_dim", torch.take_along_dim, "bn k#n", "_ _"),
    Case("scatter", lambda x, i, y: x.scatter(1, i, y), "bnm bnm#n bnm", "bnm b_m b_m"),
    Case("scatter", lambda x, i: torch.scatter(x, 0, i, 2.0), "nb nb#n", "nb _b"),
    Case("scatter", lambda x, i, y: x.clone().scatter_add_(-1, i, y), "bn bn#n bn", "bn b_ b_"),
    Case(
        "scatter",
        lambda x, i, y: x.scatter_reduce(1, i, y, "amax", include_self=False),
        "bn bn#n bn",
        "bn b_ b_",
    ),
    Case("index_select", lambda x, i: x.index_select(1, i), "bnm k#n", "b_m _k_"),
    Case("index_select", lambda x, i: torch.index_select(x, dim=-1, index=i), "bn k#n", "b_ _k"),
    Case("index_add", lambda x, i, y: x.index_add(1, i, y), "bnm k#n bkm", "bnm ___ b_m"),
    Case("index_add", lambda x, i, y: x.clone().index_copy_(0, i, y), "nb n#n nb", "nb __ _b"),
    Case("index_add", lambda x, i, y: x.index_fill(0, i, y), "nb k#n .", "nb __ __"),
    Case("index_add", lambda x, i, y: x.index_reduce(0, i, y, "prod"), "nb k#n kb", "nb __ _b"),
    Case("take", torch.take, "nm ab#n", "__ ab"),
    Case("put", lambda x, i, y: x.put(i, y), "nm k#n k", "nm __ __"),
    Case("put", lambda x, m, y: x.masked_scatter(m, y), "bn bn? bn", "bn __ __"),
    Case("appended", lambda i: F.one_hot(i, 3), "bn#c", "bn_", {"c": 3}),
    Case("embedding", F.embedding, "bn#v vd", "bn_ __d"),
    Case("embedding", lambda i, w: F.embedding(i, w.clone(), max_norm=1.0), "bn#v vd", "___ ___"),
    Case("table_first", torch.embedding, "vd bn#v", "__d bn_"),
    Case("embedding_bag", F.embedding_bag, "bn#v vd", "b_ __"),
    Case(
        "embedding_bag",
        lambda i, w, p: F.embedding_bag(i, w, mode="sum", per_sample_weights=p),
        "bn#v vd bn",
        "b_ __ b_",
    ),
]

SUBSCRIPTS = [
    Case("getitem", lambda x: x[:, 0, None], "bnm", "b_m"),
    Case("getitem", lambda x: x[..., 0], "bnm", "bn"),
    Case("getitem", lambda t, z: t[z], "vd bn#v", "__d bn_"),
    Case("getitem", lambda t, z: t[:, z], "dv bn#v", "d__ _bn"),
    Case("getitem", lambda t, z: t[..., z, None], "dv bn#v", "d___ _bn_"),
    Case("getitem", lambda x, z: x[rows(x), z], "bv b#v", "b b"),
    Case("getitem", lambda x, z: x[rows(x, 1), z], "bv bn#v", "b_ bn"),
    Case("getitem", lambda x, z: x[rows(x), :, z], "bnv b#v", "bn b_"),
    Case("getitem", lambda x, z: x[:, rows(x[0]), :, z], "abnv b#v", "ban b__"),
    Case("getitem", lambda x, z: x[:, rows(x[0]), z], "abv b#v", "ab _b"),
    Case("getitem", lambda x, z: x[rows(x), z, 0], "bvn b#v", "b b"),
    Case("getitem", lambda x, z, y: x[z, y], "vw bn#v n#w", "__ bn _n"),
    Case("getitem", lambda x, z: x[z.flip(0), z], "vv b#v", "_ _"),
    Case("getitem", lambda x: x[rows(x).flip(0)], "bn", "_n"),
    Case("getitem", lambda x: x[rows(x) * 0, rows(x)], "ab", "b", {"a": 3, "b": 3}),
    Case("getitem", lambda x: x[rows(x), rows(x).flip(0)], "bn", "b", {"b": 3, "n": 3}),
    Case("getitem", lambda x: x[[0, 1, 2], 0], "bn", "b", {"b": 3}),
    Case("getitem", lambda x: x[[1, 0, 2]], "bn", "_n", {"b": 3}),
    Case("getitem", lambda x, z: x[z[0]], "bn b#b", "n _"),
    Case("getitem", lambda x: x[torch.tensor([True, False, True])], "bn", "_n", {"b": 3}),
    Case("getitem", lambda x: x[:, torch.ones(x.shape[1:], dtype=torch.bool)], "bnm", "b_"),
    Case("setitem", lambda x, v: put(x, (slice(None), 0), v), "bnm bm", "bnm b_m"),
    Case("setitem", lambda x, v: put(x, (slice(None), 0), v), "bnm m", "bnm __m"),
    Case("setitem", lambda x, v: put(x, slice(1, None), v), "bn n", "bn _n"),
    Case("setitem", lambda x, v: put(x, 0, v), "bn ubn", "bn _n", {"u": 1, "b": 1}),
    Case("setitem", lambda x, z, v: put(x, (rows(x), z), v), "bv b#v b", "bv b_ b_"),
    Case("setitem", lambda x, z: put(x, (rows(x), slice(None), z), 1.0), "bnv b#v", "bnv b__"),
    Case("setitem", lambda x, z, v: put(x, (rows(x, 1), z), v), "bv bn#v bn", "bv b_ b_"),
    Case("setitem", lambda x, z, v: put(x, z, v), "vd n#v nd", "vd __ _d"),
    Case("setitem", lambda x, m: put(x, m, 0.0), "bn bn?", "bn bn"),
    Case("setitem", lambda x, m, v: put(x, m, v), "bn b? n", "bn b_ _n"),
    Case("setitem", lambda x, m: put(x, m, torch.arange(1.0).double()), "bn bn?", "bn bn"),
    Case("setitem", lambda x, v: put(x, rows(x) > 0, v), "bn an", "bn _n", {"b": 3, "a": 2}),
    Case("setitem", lambda x, v: put(x, ..., v), "bn .", "bn __"),
    Case("index_put", lambda x, z, v: x.index_put((rows(x), z), v), "bv b#v b", "bv b_ b_"),
    Case(
        "index_put",
        lambda x, z, v: torch.index_put(x, [z], values=v, accumulate=True),
        "vd n#v nd",
        "vd __ _d",
    ),
]

ELEMENTWISE = [
    Case("pointwise", lambda x, y: torch.lerp(x, y, 0.3), "bn n", "bn _n"),
    Case("pointwise", torch.special.gammainc, "bn bn", "bn bn"),
    Case("rrelu", F.rrelu, "bn", "bn"),
    Case("first_pointwise", lambda x, y: x.type_as(y), "bn n", "bn -"),
    Case("first_alone", lambda x: torch.broadcast_to(x, (3, *x.shape)), "bn", "_bn"),
    Case("first_alone", lambda i: torch.unravel_index(i, (2, 3)), "bn#v", "bn", {"v": 6}),
    Case("where", lambda c, x, y: torch.where(c, x, y), "bn? bn n", "bn bn _n"),
    Case("binned", lambda x, y: torch.bucketize(x, y.sort().values), "bn k", "bn __"),
    Case("binned", lambda i, j: torch.isin(i, test_elements=j), "bn#v k#v", "bn __", {"v": 3}),
    Case("searched", lambda r, x: torch.searchsorted(r, x), "bk bn", "b_ bn"),
    Case("searched", lambda r, x: torch.searchsorted(r, x), "k bn", "__ bn"),
    Case("by_channel", lambda x, w: F.prelu(x - 1, w), "bcl c", "bcl _c_"),
    Case("by_channel", lambda x, w: F.prelu(x - 1, w), "bc u", "bc __", {"u": 1}),
]
