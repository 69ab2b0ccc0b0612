"""Draws given where torch takes a number: a plain operand does not show what it was given."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, arg-type, call-overload"

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from programs.control.register import TABLE, coin, control, num, roll, rows

number = control(escapes=None, decides=False)


rows(
    number,
    {
        "selected": lambda theta: TABLE.select(0, roll(theta)) * theta[1],
        "selected_of_parameters": lambda theta: theta.select(0, coin(theta[0]).long()) * theta[1],
        "a_factor_of_an_addition": lambda theta: torch.add(
            theta, TABLE[:2], alpha=coin(theta[0])
        ).prod(),
        "a_factor_of_a_method": lambda theta: theta.sub(TABLE[:2], alpha=coin(theta[0])).prod(),
        "a_factor_of_products": lambda theta: torch.addcmul(
            theta, TABLE[:2], TABLE[2:], value=coin(theta[0])
        ).prod(),
        "filled_like": lambda theta: torch.full_like(theta, coin(theta[0])) @ theta,
        "filled_in_place": lambda theta: torch.zeros_like(theta).fill_(coin(theta[0])) @ theta,
        "full": lambda theta: torch.full((2,), coin(theta[0])).double() @ theta,
        "new_full": lambda theta: theta.new_full((2,), coin(theta[0])) @ theta,
        "rolled": lambda theta: theta.roll(coin(theta[0]).long())[0] * TABLE[2],
        "a_slope": lambda theta: F.leaky_relu(-TABLE, coin(theta[0])).sum() * theta[1],
        "a_threshold": lambda theta: F.threshold(TABLE, coin(theta[0]), 0.3).sum() * theta[1],
        "a_norm": lambda theta: torch.linalg.vector_norm(TABLE, coin(theta[0]) + 1) * theta[1],
        "a_power": lambda theta: (
            TABLE[2] ** roll(theta) * theta[1] + torch.pow(2.0, coin(theta[1]))
        ),
        "bounds": lambda theta: torch.clamp(TABLE, max=coin(theta[0])).sum() * theta[1],
        "a_scalar_tensor": lambda theta: (
            torch.scalar_tensor(coin(theta[0]), dtype=torch.float64) * theta[1]
        ),
        "one_of_two_numbers": lambda theta: (
            torch.where(coin(theta) > 0, 1.4, -0.3).double() @ theta
        ),
        "an_average": lambda theta: torch.lerp(TABLE[:2], TABLE[2:], coin(theta[0])) @ theta,
        "an_added_multiple": lambda theta: (
            torch.zeros_like(theta).add_(theta, alpha=coin(theta[0])).prod() + num(0.2)
        ),
        "a_random_seedless_choice": lambda theta: (
            TABLE.index_select(0, roll(theta).reshape(1)).sum() * theta[1]
        ),
        "a_triangle": lambda theta: (
            torch.ones(2, 2, dtype=torch.float64).tril(coin(theta[0]).long()).sum() * theta[1]
        ),
    },
)


@number
def a_factor_of_matrix_products(theta: Tensor) -> Tensor:
    row = theta.reshape(1, 2)
    return torch.addmm(row, row, torch.eye(2, dtype=torch.float64), beta=coin(theta[0])).prod()


@number
def a_diagonal(theta: Tensor) -> Tensor:
    square = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    return square.diagonal(coin(theta[0]).long()).sum() * theta[1]


@number
def a_dimension(theta: Tensor) -> Tensor:
    square = torch.arange(4.0, dtype=torch.float64).reshape(2, 2)
    return square.select(coin(theta[0]).long(), 1).prod() * theta[1]


@number
def a_power_of_a_matrix(theta: Tensor) -> Tensor:
    square = torch.tensor([[1.0, 0.4], [0.0, 1.2]], dtype=torch.float64)
    return torch.matrix_power(square, roll(theta)).sum() * theta[1]


@number
def masked_with_a_draw(theta: Tensor) -> Tensor:
    mask = torch.tensor([True, False])
    return theta.masked_fill(mask, coin(theta[0])).sum() * theta[1]
