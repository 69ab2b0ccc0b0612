"""Draws turned into sparse and quantized tensors, and factories that take them."""

import warnings

import torch
from torch import Tensor

from ancestral import control_scope
from programs.control.register import TABLE, coin, control, rows

either = control(escapes=None, decides=False)


rows(
    either,
    {
        "indices": lambda theta: theta[1] * coin(theta).to_sparse().indices().shape[1],
        "values": lambda theta: theta[1] * len(coin(theta).to_sparse().values()),
        "indices_before_they_are_merged": lambda theta: (
            theta[1] * coin(theta).to_sparse()._indices().shape[1]
        ),
        "values_before_they_are_merged": lambda theta: (
            theta[1] * len(coin(theta).to_sparse()._values())
        ),
        "the_number_that_is_kept": lambda theta: theta[1] * coin(theta).to_sparse()._nnz(),
        "columns": lambda theta: theta[1] * len(compressed(theta, torch.sparse_csr).col_indices()),
        "rows": lambda theta: theta[1] * len(compressed(theta, torch.sparse_csc).row_indices()),
        "places_of_columns": lambda theta: (
            theta[1] * compressed(theta, torch.sparse_csc).ccol_indices()[-1]
        ),
        "places_of_rows": lambda theta: (
            theta[1] * compressed(theta, torch.sparse_csr).crow_indices()[-1]
        ),
        "a_number_by_its_op": lambda theta: (
            theta[1] * torch.ops.aten._local_scalar_dense(coin(theta[0]))
        ),
        "full_like": lambda theta: torch.full_like(TABLE[:2], fill_value=coin(theta[0])) @ theta,  # type: ignore[arg-type]
    },
)


def compressed(theta: Tensor, layout: torch.layout) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of their youth
        return coin(theta).reshape(1, 2).to_sparse(layout=layout)


@either
def as_array(theta: Tensor) -> Tensor:
    z = coin(theta)
    return torch.asarray([z[0], z[1]], dtype=torch.float64) @ theta


@either
def a_range_with_its_end(theta: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of its age
        return torch.range(0, coin(theta[0]) + 1).double()[-1] * theta[1]  # type: ignore[arg-type]


def quantized(scale: Tensor, zero: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of their age
        return torch.quantize_per_tensor(TABLE.float(), scale, zero, torch.qint8)


rows(
    control(),
    {
        "the_scale_of_a_quantized_tensor": lambda theta: (
            theta[1] * quantized(coin(theta[0]).float() * 0.5 + 0.1, torch.tensor(0)).q_scale()
        ),
        "the_zero_of_a_quantized_tensor": lambda theta: (
            theta[1] * quantized(torch.tensor(0.1), coin(theta[0]).int() + 1).q_zero_point()
        ),
    },
)


_ENDS, _PLACES = torch.tensor([0, 1, 2]), torch.tensor([0, 1])


def dense(sparse: Tensor, theta: Tensor) -> Tensor:
    return (sparse.to_dense() @ theta).sum()


@either
def a_tensor_of_rows(theta: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of their youth
        return dense(torch.sparse_csr_tensor(_ENDS, _PLACES, coin(theta), (2, 2)), theta)


@either
def a_tensor_of_columns(theta: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of their youth
        return dense(torch.sparse_csc_tensor(_ENDS, _PLACES, coin(theta), (2, 2)), theta)


@either
def a_tensor_of_blocks_in_rows(theta: Tensor) -> Tensor:
    blocks = coin(theta).reshape(2, 1, 1)
    with warnings.catch_warnings(action="ignore"):  # of their youth
        return dense(torch.sparse_bsr_tensor(_ENDS, _PLACES, blocks, (2, 2)), theta)


@either
def a_tensor_of_blocks_in_columns(theta: Tensor) -> Tensor:
    blocks = coin(theta).reshape(2, 1, 1)
    with warnings.catch_warnings(action="ignore"):  # of their youth
        return dense(torch.sparse_bsc_tensor(_ENDS, _PLACES, blocks, (2, 2)), theta)


@either
def a_compressed_tensor(theta: Tensor) -> Tensor:
    layout = torch.sparse_csr
    with warnings.catch_warnings(action="ignore"):  # of their youth
        made = torch.sparse_compressed_tensor(_ENDS, _PLACES, coin(theta), (2, 2), layout=layout)
    return dense(made, theta)


class Passive(Tensor):
    """A class that leaves all to torch."""


class Tagged(Tensor):
    """One that keeps something besides, as do the images of a library."""

    tag: str

    @staticmethod
    def __new__(cls: type, data: Tensor, tag: str = "") -> "Tagged":
        made: Tagged = Tensor._make_subclass(cls, data)
        made.tag = tag
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


class Weight(torch.nn.Parameter):
    """A parameter of its own class."""


passive = control(escapes=False)


rows(
    passive,
    {
        "a_passive_class_that_is_met": lambda theta: (
            (Passive(TABLE[:2]) * coin(theta)).sum() * theta[1]
        ),
        "a_passive_class_of_a_draw": lambda theta: (
            (Passive(coin(theta)) * TABLE[:2]).sum() * theta[1]
        ),
        "a_view_as_a_passive_class": lambda theta: (
            (coin(theta).as_subclass(Passive) * 2 + TABLE[:2]).square().sum() * theta[1]
        ),
        "a_tagged_class_that_is_met": lambda theta: (
            coin(theta).lerp(Tagged(TABLE[:2]), 0.3).sum() * theta[1]
        ),
        "a_weight_that_is_met": lambda theta: (
            torch.nn.functional.linear(coin(theta), Weight(TABLE.reshape(2, 2))).sum() * theta[1]
        ),
    },
)


@passive
def a_passive_class_beside_a_draw(theta: Tensor) -> Tensor:
    both = torch.stack([coin(theta), Passive(TABLE[:2])])
    return torch.where(both > 0.5, both, both * 3).sum() * theta[1]


@control(escapes=None, decides=False)
def a_passive_class_of_numbers_of_a_draw(theta: Tensor) -> Tensor:
    z = coin(theta)
    return (Passive([z[0], z[1]]).double() * TABLE[:2]).sum() * theta[1]


@passive
def a_tagged_class_of_a_draw(theta: Tensor) -> Tensor:
    made = Tagged(coin(theta), "left")
    return (made * TABLE[:2]).sum() * theta[1] * len(made.tag)


@passive
def a_passive_class_on_memory_that_is_written(theta: Tensor) -> Tensor:
    buffer = torch.zeros(2, dtype=torch.float64)
    seen = Passive(buffer)
    buffer.copy_(coin(theta))
    return (seen * 2).sum() * theta[1]


@control()
def a_passive_class_after_a_decision(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    made = Passive(TABLE[:2] if z > 0 else TABLE[2:])
    return (made * 2).as_subclass(Tensor).sum() * theta[1]


@control()
def a_passive_class_in_a_scope(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    with control_scope():
        made = Passive(TABLE[:2] * (1 if z > 0 else 3))
    return (made * 2).as_subclass(Tensor).sum() * theta[1]
