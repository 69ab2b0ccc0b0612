"""Sizes that functions compute in Python from the numbers that they are given."""

# torch.distributions is not annotated, and a tensor is no number to mypy.
# mypy: disable-error-code="no-any-return, arg-type"

import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from programs.control.register import coin, control, roll, rows

size = control(escapes=None)


def counted(theta: Tensor, make: Callable[[Tensor, Tensor], Any], dims: int = 1) -> Tensor:
    """Return a cost of how large the result is of an image that depends on a draw, and a number."""
    image = torch.ones((1, 1) + (4,) * dims, dtype=torch.float64) * coin(theta[0])
    with warnings.catch_warnings(action="ignore"):  # of their age
        made = make(image, roll(theta) + 1)
    return theta[1] * (made if isinstance(made, Tensor) else made[0]).shape[2]


rows(
    size,
    {
        "interpolated": lambda theta: counted(theta, lambda x, n: F.interpolate(x, size=n)),
        "upsampled": lambda theta: counted(theta, lambda x, n: F.upsample(x, size=n)),
        "upsampled_to_the_nearest": lambda theta: counted(
            theta, lambda x, n: F.upsample_nearest(x, size=(n, n)), 2
        ),
        "upsampled_in_between": lambda theta: counted(
            theta, lambda x, n: F.upsample_bilinear(x, size=(n, n)), 2
        ),
        "pooled": lambda theta: counted(theta, lambda x, n: F.lp_pool1d(x, 2, n)),
        "pooled_in_a_plane": lambda theta: counted(
            theta, lambda x, n: F.lp_pool2d(x, 2, (n, n)), 2
        ),
        "pooled_in_space": lambda theta: counted(
            theta, lambda x, n: F.lp_pool3d(x, 2, (n, n, n)), 3
        ),
        "pooled_by_fractions": lambda theta: counted(
            theta, lambda x, n: F.fractional_max_pool2d(x, 2, output_size=(n, n)), 2
        ),
        "pooled_by_fractions_in_space": lambda theta: counted(
            theta, lambda x, n: F.fractional_max_pool3d(x, 1, output_size=(n, n, n)), 3
        ),
        "full_of_a_size": lambda theta: theta[1] * len(torch.full((roll(theta),), 1.5)),
        "new_full_of_a_size": lambda theta: theta[1] * len(theta.new_full((roll(theta),), 1.5)),
        "new_of_a_size": lambda theta: theta[1] * len(theta.new(roll(theta), 2)),
    },
)


@size
def pooled_by_fractions_with_places(theta: Tensor) -> Tensor:
    pool = F.fractional_max_pool2d_with_indices
    return counted(theta, lambda x, n: pool(x, 2, output_size=(n, n)), 2)


@size
def pooled_by_fractions_in_space_with_places(theta: Tensor) -> Tensor:
    pool = F.fractional_max_pool3d_with_indices
    return counted(theta, lambda x, n: pool(x, 1, output_size=(n, n, n)), 3)


@size
def a_range_of_an_old_kind(theta: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of its age
        return theta[1] * len(torch.range(0, roll(theta)))
