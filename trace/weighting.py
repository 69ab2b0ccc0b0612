"""Weighting: how much the sites of a block count, and which of their elements."""

from dataclasses import replace

import torch
from torch import Tensor

from ancestral.provenance.tensor import untrack
from ancestral.trace.request import Handler, Request


class scale(Handler):  # noqa: N801 (used as a verb: with scale(0.1): ...)
    """Multiply how often the log-probabilities of a block count.

    What a nested block says multiplies too.

    Args:
        factor: a positive number, or a tensor that broadcasts to the batch of every site.

    Raises:
        ValueError: if it is not positive.
    """

    def __init__(self, factor: float | Tensor) -> None:
        """Take the factor."""
        # To check is not to decide: the value does not escape.
        plain = untrack(factor) if isinstance(factor, Tensor) else torch.as_tensor(factor)
        if not bool((plain.detach() > 0).all()):
            raise ValueError(f"scale must be greater than 0, not {factor!r}")
        self.factor = factor

    def ask(self, request: Request) -> Request:
        """Multiply the scale of a sample."""
        if request.kind != "sample":
            return request
        return replace(request, scale=request.scale * self.factor)


class mask(Handler):  # noqa: N801
    """Let only some elements of the batches of a block count.

    The others are drawn as ever, but their log-probability is zero. Nested masks let through what
    all of them do.

    Args:
        which: a truth value, or a tensor of them that broadcasts to the batch of every site.

    Raises:
        TypeError: if it is of another type.
    """

    def __init__(self, which: bool | Tensor) -> None:
        """Take the mask."""
        if isinstance(which, bool):
            which = torch.tensor(which)
        if not isinstance(which, Tensor) or which.dtype != torch.bool:
            found = which.dtype if isinstance(which, Tensor) else type(which).__name__
            raise TypeError(f"mask must be a bool, or a tensor of them, not {found}")
        self.which = which

    def ask(self, request: Request) -> Request:
        """Narrow the mask of a sample."""
        if request.kind != "sample":
            return request
        both = self.which if request.mask is None else request.mask & self.which
        return replace(request, mask=both)
