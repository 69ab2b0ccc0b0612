"""Mask and scale: the elements of a block that count, and how often."""

import math
import operator
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.handlers.by_name import broadcasts
from ancestral.trace.program.checks import too_wide
from ancestral.trace.recording.message import Message
from ancestral.trace.recording.unused_handlers import Effective

T = TypeVar("T")
_NO_SITE = (
    "its block has no site, and it acts on the log-probabilities of sites (an.sample, an.factor), "
    "not on what a program computes by itself"
)


class scale(Effective):  # noqa: N801 (used as a verb: with scale(0.1): ...)
    """Multiply how often the log-probabilities of a block count.

    What a nested block says multiplies too.

    Args:
        factor: a positive number, or a tensor that broadcasts to the batch of every site.

    Raises:
        TypeError: if it is no number, and no tensor of them.
        ValueError: if it is not positive, or not finite.
    """

    missing = _NO_SITE

    def __init__(self, factor: float | Tensor) -> None:
        if isinstance(factor, bool) or not isinstance(factor, (int, float, Tensor)):
            raise TypeError(f"scale must be a number, or a tensor of them, not {kind_of(factor)}")
        # To check is not to decide: the value does not escape.
        plain = torch.as_tensor(untrack(factor) if isinstance(factor, Tensor) else factor).detach()
        if plain.is_complex():
            raise TypeError(f"scale must be a number, or a tensor of them, not of {plain.dtype}")
        if not plain.is_meta and not bool(((plain > 0) & (plain < math.inf)).all()):
            raise ValueError(f"scale must be greater than 0, and finite, not {short(factor)}")
        self.factor = factor

    def process(self, message: Message) -> Message:
        """Multiply the scale of a sample."""
        if message.kind != "sample":
            return message
        self._is_used = True
        factor = together(message, "scale", message.scale, self.factor, operator.mul)
        return replace(message, scale=factor)


class mask(Effective):  # noqa: N801
    """Let only some elements of the batches of a block count.

    The others are drawn as ever, but their log-probability is zero, and so is its gradient. As data
    they may be anything, NaN or -1 for what is missing, and their parameters too, if what computes
    these passes a gradient of zero on. Nested masks let through what all of them do.

    Args:
        which: a truth value, or a tensor of them that broadcasts to the batch of every site.

    Raises:
        TypeError: if it is of another type.
    """

    missing = _NO_SITE

    def __init__(self, which: bool | Tensor) -> None:
        if isinstance(which, bool):
            which = torch.tensor(which)
        if not isinstance(which, Tensor) or which.dtype != torch.bool:
            found = f"one of {which.dtype}" if isinstance(which, Tensor) else kind_of(which)
            raise TypeError(f"mask must be a bool, or a tensor of them, not {found}")
        self.which = which

    def process(self, message: Message) -> Message:
        """Narrow the mask of a sample."""
        if message.kind != "sample":
            return message
        self._is_used = True
        if message.mask is None:
            return replace(message, mask=self.which)
        both = together(message, "mask", message.mask, self.which, operator.and_)
        return replace(message, mask=both)


def together(message: Message, word: str, inner: T, outer: T, combine: Callable[[T, T], T]) -> T:
    """Return what two nested blocks say of a site together.

    Raises:
        SiteError: if they do not broadcast with each other.
    """
    try:
        return combine(inner, outer)
    except RuntimeError as error:
        assert message.fn is not None
        batch = tuple(message.fn.batch_shape)
        sizes = [tuple(each.shape) for each in (inner, outer) if isinstance(each, Tensor)]
        odd = next((size for size in sizes if not broadcasts(size, batch)), sizes[-1])
        raise too_wide(message, word, odd, batch) from error
