"""First order: scalars whose first derivative is right, and whose second is an error, not zero.

>>> import torch
>>> x = torch.tensor(3.0, requires_grad=True)
>>> (slope,) = torch.autograd.grad(first_order(x**2, "no more"), x, create_graph=True)
>>> slope.item()
6.0
>>> torch.autograd.grad(slope, x)
Traceback (most recent call last):
ancestral.estimators.pathwise.routes.DerivativeOrderError: no more
"""

from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.pathwise.routes import Beyond


def first_order(total: Tensor, advice: str) -> Tensor:
    """Return a scalar, [], whose second derivatives raise a `DerivativeOrderError` with a text."""
    once: Any = _Once.apply
    found: Tensor = once(total, advice)
    return found


class _Once(torch.autograd.Function):
    """The identity, whose derivative depends on the scalar in name."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, advice: str) -> Tensor:
        ctx.save_for_backward(total)
        ctx.advice = advice
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (total,) = ctx.saved_tensors
        beyond: Any = Beyond.apply
        zero: Tensor = beyond(total, 0, ctx.advice)
        return gradients[0] + zero, None
