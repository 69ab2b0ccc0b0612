"""Plain views of what a draw was written into: every way to read them."""

import copy

import torch
from torch import Tensor

from programs.control.register import TABLE, coin, control, num, rows

alias = control(escapes=False)


def written(theta: Tensor) -> Tensor:
    """Return an older view of a buffer that a draw was written into: []."""
    buffer = torch.zeros(2, dtype=torch.float64)
    view = buffer[0]
    buffer.copy_(coin(theta))
    return view


rows(
    control(),
    {
        "an_item_of_a_view": lambda theta: written(theta).item() * theta[1],
        "a_branch_on_a_view": lambda theta: theta[1] * (2.0 if written(theta) > 0 else 1.0),
        "an_array_of_a_view": lambda theta: float(written(theta).numpy()) * theta[1],
        "a_list_of_a_view": lambda theta: written(theta).reshape(1).tolist()[0] * theta[1],
        "a_mask_of_a_view": lambda theta: theta[1] * len(TABLE[:1][written(theta).reshape(1) > 0]),
    },
)


@control(escapes=None)
def a_factor_in_a_view(theta: Tensor) -> Tensor:
    return torch.add(theta, TABLE[:2], alpha=written(theta)).prod()  # type: ignore[call-overload, no-any-return]


@control(escapes=None, decides=False)
def a_tensor_of_a_view(theta: Tensor) -> Tensor:
    return torch.tensor([written(theta)]).double().sum() * theta[1]


rows(
    alias,
    {
        "a_deep_copy_of_a_view": lambda theta: copy.deepcopy(written(theta)) * theta[1],
        "a_draw_from_a_view": lambda theta: 2 * coin(written(theta)) + theta[1],
        "a_draw_from_a_multiple_of_a_view": lambda theta: (
            2 * coin(written(theta) * num(1.3)) + theta[1]
        ),
        "the_bits_of_a_view": lambda theta: (
            (written(theta).reshape(1).view(torch.int64) != 0).sum() * theta[1]
        ),
    },
)
