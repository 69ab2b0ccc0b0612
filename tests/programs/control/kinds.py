"""Draws turned into sparse and quantized tensors, and factories that take them."""

# torch.distributions is not annotated, and a tensor is no number to mypy.
# mypy: disable-error-code="no-any-return, call-overload, arg-type"

import warnings

import torch
from torch import Tensor

from programs.control.register import TABLE, coin, control

either = control(escapes=None, decides=False)


@either
def indices(theta: Tensor) -> Tensor:
    return theta[1] * coin(theta).to_sparse().indices().shape[1]


@either
def values(theta: Tensor) -> Tensor:
    return theta[1] * len(coin(theta).to_sparse().values())


@either
def indices_before_they_are_merged(theta: Tensor) -> Tensor:
    return theta[1] * coin(theta).to_sparse()._indices().shape[1]


@either
def values_before_they_are_merged(theta: Tensor) -> Tensor:
    return theta[1] * len(coin(theta).to_sparse()._values())


@either
def the_number_that_is_kept(theta: Tensor) -> Tensor:
    return theta[1] * coin(theta).to_sparse()._nnz()


def compressed(theta: Tensor, layout: torch.layout) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of their youth
        return coin(theta).reshape(1, 2).to_sparse(layout=layout)


@either
def columns(theta: Tensor) -> Tensor:
    return theta[1] * len(compressed(theta, torch.sparse_csr).col_indices())


@either
def rows(theta: Tensor) -> Tensor:
    return theta[1] * len(compressed(theta, torch.sparse_csc).row_indices())


@either
def places_of_columns(theta: Tensor) -> Tensor:
    return theta[1] * compressed(theta, torch.sparse_csc).ccol_indices()[-1]


@either
def places_of_rows(theta: Tensor) -> Tensor:
    return theta[1] * compressed(theta, torch.sparse_csr).crow_indices()[-1]


@either
def a_number_by_its_op(theta: Tensor) -> Tensor:
    return theta[1] * torch.ops.aten._local_scalar_dense(coin(theta[0]))


@either
def as_array(theta: Tensor) -> Tensor:
    z = coin(theta)
    return torch.asarray([z[0], z[1]], dtype=torch.float64) @ theta


@either
def full_like(theta: Tensor) -> Tensor:
    return torch.full_like(TABLE[:2], fill_value=coin(theta[0])) @ theta


@either
def a_range_with_its_end(theta: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of its age
        return torch.range(0, coin(theta[0]) + 1).double()[-1] * theta[1]
