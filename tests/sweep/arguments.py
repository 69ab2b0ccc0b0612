"""Arguments: what the overridables are called with that the database does not reach.

Most take one of a few generic lists: tensors of floats, of integers, of truth values, vectors and
matrices, and numbers. The others have their own.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor

_generator = torch.Generator().manual_seed(0)


def _floats(*shape: int) -> Tensor:
    return torch.rand(shape, generator=_generator, dtype=torch.float64) + 0.1


def generic() -> Iterator[tuple[Any, ...]]:
    """Yield lists of arguments to try."""
    x, y, w = _floats(3, 3), _floats(3, 3), _floats(3, 3)
    v, s = _floats(3), _floats()
    n, m = torch.tensor([[2, 0, 1]] * 3), torch.tensor([[1, 2, 3]] * 3)
    i, b = torch.tensor([2, 0, 1]), x > 0.6
    image, kernel = _floats(2, 3, 4), _floats(3, 3, 2)
    yield from [(x,), (x, y), (b, b), (n, m), (x, y, w), (x, 2), (x, 0), (n, 2), (x, 0, 1)]
    yield from [(x, v), (v, v), (x, v, v), (v, x), (b,), (n,), (v,), (s,)]
    yield from [(x, i), (x, b), (x, b, s)]
    yield from [(b, x, y), (x, 0, n), (x, 0, n, y), (x, 0, i), (x, 0, i, y), (x, 0, i, s)]
    yield from [(x, b, 1.0), (x, b, y), (x, (i,), y), (x, [3, 3]), (x, [2]), (x, [0]), (x, [9])]
    yield from [([x, y],), ([x, y], 2.0), ([x, y], [y, w]), ([x, y], s), ([x, y], [y, w], [w, x])]
    yield from [(x, 1, 0), (x, 0, 0, 1), (x, 2, 0), (x, 0, 0), (x, torch.float32), (x, "fro")]
    yield from [(x, 0.5), (x, 0.2, 0.8), (x, 0.5, True), (x, 0.5, False), (b, 0, 1), (n, 0, 1)]
    floats4, window = _floats(1, 2, 4, 4), _floats(2, 2, 4, 4, 4)
    yield from [(image,), (image, kernel), (image, 2), (floats4,), (floats4, 2), (window, 2)]
    yield from [(image, v), (x.to_sparse(),), (x.to_sparse(), y), (x.to_sparse_csr(),)]
    c = torch.complex(x, y)
    yield from [(c,), (c, 0), (image, image), (image, image, image)]
    yield from [("ij,jk->ik", x, y), (x, y, i), (x, y, w, v), (x, y, v, v), (x, slice(0, 2))]
    yield from [(x, y, 0.5, 1e-5), (x, v, v, v, v, True, 0.1, 1e-5, False), (x, [3], v, v)]
    yield from [(x, (slice(None), 0)), (x, 0, v), (x, [1, 1]), (2, x), (x, s, s), (n, i)]


@cache
def own() -> dict[str, tuple[Any, ...]]:
    """Return the arguments of the functions that take no generic ones, by their names."""
    return {**_products(), **_layers(), **_sequences(), **_unusual(), **_pieces()}


def _products() -> dict[str, tuple[Any, ...]]:
    x, y, v, b = _floats(3, 3), _floats(3, 3), _floats(3), _floats(2, 3, 3)
    definite = x @ x.T + torch.eye(3, dtype=torch.float64)
    lu, lu_pivots = torch.linalg.lu_factor(x)
    ld, ld_pivots = torch.linalg.ldl_factor(definite)
    return {
        "addbmm addbmm_": (x, b, b),
        "addmv addmv_": (v, x, v),
        "baddbmm baddbmm_": (b, b + 1, b + 2),
        "bmm": (b, b + 1),
        "F.bilinear bilinear": (x, y, b),
        "cholesky linalg.cholesky": (definite,),
        "linalg.ldl_solve": (ld, ld_pivots, y),
        "linalg.lu_solve": (lu, lu_pivots, y),
        "linalg.tensorinv": (_floats(4, 2, 2), 1),
        "lu_solve": (y, lu, lu_pivots),
        "lu_unpack": (lu, lu_pivots),
        "ormqr": (x, v, y),
        "linalg.solve_triangular": (x, y, {"upper": True}),
        "sspaddmm": (x.to_sparse(), y.to_sparse(), x),
    }


def _layers() -> dict[str, tuple[Any, ...]]:
    x, v, image, plane = _floats(3, 3), _floats(3), _floats(2, 3, 4), _floats(1, 2, 4, 4)
    cube, theta, i = _floats(1, 2, 4, 4, 4), _floats(1, 2, 3), torch.tensor([2, 0, 1])
    kernel2, kernel3 = _floats(3, 2, 2, 2), _floats(3, 2, 2, 2, 2)
    grid2, grid3 = _floats(1, 3, 3, 2), _floats(1, 2, 2, 2, 3)
    paths = torch.tensor([[1, 2], [2, 1]]), torch.tensor([4, 4]), torch.tensor([2, 1])
    convolution = (plane, kernel2, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    return {
        "F.affine_grid": (theta, [1, 1, 4, 4]),
        "affine_grid_generator": (theta, [1, 1, 4, 4], False),
        "batch_norm_update_stats": (image, v, v.clone(), 0.1),
        "F.conv2d conv2d": (plane, kernel2),
        "F.conv3d conv3d": (cube, kernel3),
        "F.conv_tbc conv_tbc": (_floats(3, 2, 4), _floats(2, 4, 3), v),
        "F.conv_transpose2d conv_transpose2d": (plane, kernel2.transpose(0, 1)),
        "F.conv_transpose3d conv_transpose3d": (cube, kernel3.transpose(0, 1)),
        "convolution": convolution,
        "ctc_loss F.ctc_loss": (_floats(4, 2, 3).log_softmax(2), *paths),
        "embedding_bag": (x, i, torch.tensor([0, 2])),
        "F.embedding_bag": (i, x, torch.tensor([0, 2])),
        "F.fold": (_floats(1, 4, 4), [3, 3], [2, 2]),
        "F.fractional_max_pool2d F.fractional_max_pool2d_with_indices": (plane, 2, [2, 2]),
        "F.fractional_max_pool3d F.fractional_max_pool3d_with_indices": (cube, 2, [2, 2, 2]),
        "F.grid_sample": (plane, grid2),
        "grid_sampler grid_sampler_2d": (plane, grid2, 0, 0, False),
        "grid_sampler_3d": (cube, grid3, 0, 0, False),
        "F.lp_pool1d": (image, 2.0, 2),
        "F.lp_pool2d": (plane, 2.0, 2),
        "F.lp_pool3d": (cube, 2.0, 2),
        "F.max_unpool1d": (_floats(1, 1, 2), torch.tensor([[[0, 3]]]), 2),
        "F.max_unpool2d": (_floats(1, 1, 2, 2), torch.tensor([[[[0, 2], [8, 10]]]]), 2),
        "F.max_unpool3d": (_floats(1, 1, 1, 1, 1), torch.tensor([[[[[3]]]]]), 2),
        "F.multilabel_margin_loss": (x, torch.tensor([[0, 2, -1]] * 3)),
        "native_batch_norm": (image, v, v + 1, v.clone(), v.clone(), True, 0.1, 1e-5),
        "native_group_norm": (image, v, v + 1, 2, 3, 4, 1, 1e-5),
        "native_layer_norm": (x, [3], v, v + 1, 1e-5),
    }


def _sequences() -> dict[str, tuple[Any, ...]]:
    steps, hidden = _floats(2, 1, 3), _floats(1, 1, 2)

    def weights(gates: int) -> list[Tensor]:
        rows = 2 * gates
        return [_floats(rows, 3), _floats(rows, 2), _floats(rows), _floats(rows)]

    options = (True, 1, 0.0, False, False, False)
    step, state = steps[0], hidden[0]
    signal = _floats(16)
    spectrum = torch.stft(signal, 4, return_complex=True)
    return {
        "rnn_relu rnn_tanh": (steps, hidden, weights(1), *options),
        "gru": (steps, hidden, weights(3), *options),
        "lstm": (steps, [hidden, hidden + 1], weights(4), *options),
        "rnn_relu_cell rnn_tanh_cell": (step, state, *weights(1)),
        "gru_cell": (step, state, *weights(3)),
        "lstm_cell": (step, [state, state + 1], *weights(4)),
        "stft functional.stft": (signal, 4, {"return_complex": True}),
        "istft functional.istft": (spectrum, 4),
    }


def _unusual() -> dict[str, tuple[Any, ...]]:
    x, v = _floats(3, 3).float(), _floats(3).float()
    sparse, columns = _floats(3, 3).to_sparse().coalesce(), _floats(3, 3).to_sparse_csc()
    zeros, single = torch.zeros(3, dtype=torch.int32), torch.ones(1)
    whole = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
    channels = torch.quantize_per_channel(x, v, zeros, 0, torch.quint8)
    observed = (single.clone(), single + 1, single + 2, torch.zeros(1, dtype=torch.int32))
    on = torch.ones(1, dtype=torch.int64)
    return {
        "ccol_indices ccol_indices_copy row_indices row_indices_copy": (columns,),
        "indices_copy _nnz": (sparse,),
        "_coalesced_": (sparse, True),
        "sparse_mask": (_floats(3, 3), sparse),
        "_sparse_mask_projection": (sparse, sparse * 2),
        "resize_as_sparse_": (sparse, sparse * 2),
        "sparse_resize_ sparse_resize_and_clear_": (sparse, [3, 3], 2, 0),
        "to_mkldnn": (x,),
        "choose_qparams_optimized": (v, 3, 200, 0.16, 8),
        "fake_quantize_per_channel_affine": (x, v, zeros, 0, 0, 255),
        "fake_quantize_per_tensor_affine": (x, 0.1, 0, 0, 255),
        "fused_moving_avg_obs_fake_quant": (x, on, on + 0, *observed, 0.01, 0, 255, 0),
        "quantize_per_channel": (x, v, zeros, 0, torch.quint8),
        "quantize_per_tensor": (x, 0.1, 0, torch.quint8),
        "quantize_per_tensor_dynamic": (x, torch.quint8, False),
        "int_repr q_scale q_zero_point qscheme": (whole,),
        "q_per_channel_axis q_per_channel_scales q_per_channel_zero_points": (channels,),
        "quantized_max_pool1d": (_quantized(1, 2, 4), [2]),
        "quantized_max_pool2d": (_quantized(1, 2, 4, 4), [2, 2]),
        "quantized_max_pool3d": (_quantized(1, 2, 4, 4, 4), [2, 2, 2]),
        "quantized_batch_norm": (_quantized(1, 3, 2, 2), v, v, v, v, 1e-5, 0.1, 0),
    }


def _quantized(*shape: int) -> Tensor:
    return torch.quantize_per_tensor(_floats(*shape).float(), 0.1, 0, torch.quint8)


def _pieces() -> dict[str, tuple[Any, ...]]:
    x, y, v = _floats(3, 3), _floats(3, 3), _floats(3)
    i, n = torch.tensor([2, 0, 1]), torch.tensor([[2, 0, 1]] * 3)
    return {
        "as_strided as_strided_ as_strided_copy": (x, [2, 2], [1, 2]),
        "as_strided_scatter": (x, y[:2, :2], [2, 2], [1, 2]),
        "bincount": (i,),
        "bitwise_left_shift": (n, n),
        "index_reduce index_reduce_": (x, 0, i, y, "prod"),
        "nonzero_static": (x, {"size": 4}),
        "permute permute_copy": (x, [1, 0]),
        "put put_": (x, i, v),
        "renorm renorm_": (x, 2, 0, 0.5),
        "scatter_reduce scatter_reduce_": (x, 0, n, y, "sum"),
        "select_scatter": (x, v, 0, 1),
        "split_with_sizes split_with_sizes_copy unsafe_split_with_sizes": (x, [1, 2]),
        "unflatten": (_floats(4, 3), 0, [2, 2]),
        "view_as_complex view_as_complex_copy": (_floats(3, 2),),
        "polar": (x, y),
        "poisson_nll_loss": (x, y, True, False, 1e-8, 0),
        "resize": (x, 3, 3),
        "__index__": (n[0, 0],),
        "__array_wrap__": (x, y.numpy()),
        "__deepcopy__": (x, {}),
        "_autocast_to_full_precision": (x.half(), True, True),
        "_autocast_to_reduced_precision": (x, True, True, torch.float16, torch.bfloat16),
    }
