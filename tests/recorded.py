"""A recording that has ended, after which torch answers as before it."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an

P = torch.tensor([0.2, 0.7], dtype=torch.float64)


def recorded() -> None:
    """Record something, and end the recording."""
    with an.record():
        Bernoulli(P).sample()


class Doubled(torch.autograd.Function):
    """A function of the user that differentiates by itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad
