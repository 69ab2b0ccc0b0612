"""Scored: the op that gives a loss the derivative of its scores, which have no part in its value.

As `loss + (score - score.detach())`, whose value is that of the loss, without computing the score:
log-densities that nothing else needs are part of the backward pass alone.

>>> weight = torch.tensor(2.0, requires_grad=True)
>>> loss = scored(3 * weight, weight.exp())
>>> loss.item(), torch.autograd.grad(loss, weight)[0].item() == 3 + weight.exp().item()
(6.0, True)
"""

from typing import Any

import torch
from torch import Tensor


class _Scored(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(loss: Tensor, score: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient


def scored(loss: Tensor, score: Tensor) -> Tensor:
    """Return a loss, [], that has the derivative of a score, [], besides its own."""
    found: Tensor = _Scored.apply(loss, score)  # type: ignore[no-untyped-call]
    return found


_library: Any = torch.library.Library("ancestral", "FRAGMENT")
_library.define("scored(Tensor loss, Tensor score) -> Tensor")
_library.impl("scored", scored, "CompositeImplicitAutograd")
SCORED: Any = torch.ops.ancestral.scored
