"""Linear forms: how a tensor was made of others by linear steps, kept so that a loss can be undone.

``loss = nll.mean() + beta * kl`` is one number, but it is a sum of many costs, each with its own
provenance. Every linear op on a tracked tensor leaves a form: what it was made of, and the adjoint
of the step, which turns the weight of the result into the weights of the operands. A form holds the
tensors at its leaves only, not those between. Whatever has no form is one cost.

A weight is the derivative of the loss by the elements of a tensor: a float where all elements have
the same, a tensor of the operand's shape otherwise.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

Weight = float | Tensor
Adjoint = Callable[[Weight], Sequence[Weight]]
Operand = Any  # a Form, a Tensor (a leaf, tracked or not), a number, or an Unreduced loss
Form = tuple[int, Adjoint, tuple[Operand, ...]]
"""One linear step: its number, the adjoint, and what it was applied to. Plain, because every
addition of two tracked tensors makes one."""

serials = itertools.count()
"""Numbers the forms in the order they were made: every operand is older than its result."""


def same(weight: Weight) -> tuple[Weight]:
    """Adjoint of a step that changes no value and no shape."""
    return (weight,)


def both(weight: Weight) -> tuple[Weight, Weight]:
    """Adjoint of the sum of two tensors of one shape."""
    return (weight, weight)


def difference(weight: Weight) -> tuple[Weight, Weight]:
    """Adjoint of the difference of two tensors of one shape."""
    return (weight, -weight)


def negative(weight: Weight) -> tuple[Weight]:
    """Adjoint of negation."""
    return (-weight,)


def reduced(weight: Weight, result: Sequence[int], operand: Sequence[int]) -> Weight:
    """Return the weight of an operand that was broadcast from its shape to the result's."""
    if isinstance(weight, Tensor):
        return weight.expand(tuple(result)).sum_to_size(tuple(operand))
    if tuple(result) == tuple(operand):
        return weight
    return weight * numel(result) / max(numel(operand), 1)


def numel(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor of this shape."""
    total = 1
    for size in shape:
        total *= size
    return total


def shape_of(operand: Operand) -> tuple[int, ...]:
    """Return the shape of a tensor or a number."""
    return tuple(operand.shape) if isinstance(operand, Tensor) else ()


def exact(factor: Any) -> Any:
    """Return a factor of integers in double: a number times it would be in single precision."""
    is_whole = isinstance(factor, Tensor) and not (
        factor.is_floating_point() or factor.is_complex()
    )
    return factor.double() if is_whole else factor


def combined(
    result: Sequence[int],
    shapes: Sequence[Sequence[int]],
    factors: Sequence[float | Tensor],
    weight: Weight,
) -> list[Weight]:
    """Adjoint of the sum of operands of these shapes, each times a constant, broadcast."""
    return [
        reduced(weight * exact(factor), result, shape)
        for shape, factor in zip(shapes, factors, strict=True)
    ]


def combination(
    result: Sequence[int], operands: Sequence[Operand], factors: Sequence[float | Tensor]
) -> Adjoint:
    """Return the adjoint of the sum of operands, each times a constant, broadcast together."""
    return partial(combined, result, [shape_of(operand) for operand in operands], factors)


def uniform(scale: float, operand: Sequence[int], unsqueezed: Sequence[int]) -> Adjoint:
    """Return the adjoint of a sum over dimensions, times `scale`.

    `unsqueezed` is the result's shape with the summed dimensions kept as ones.
    """

    def adjoint(weight: Weight) -> tuple[Weight]:
        if isinstance(weight, Tensor):
            return ((weight * scale).reshape(tuple(unsqueezed)).expand(tuple(operand)),)
        return (weight * scale,)

    return adjoint


def rearranged(
    function: Callable[[Tensor], Tensor], operand: Sequence[int], device: torch.device
) -> Adjoint:
    """Return the adjoint of a step that moves, drops or repeats elements but computes nothing.

    Its transpose adds each weight to the place where its element came from.
    """

    def adjoint(weight: Weight) -> tuple[Weight]:
        places = torch.arange(numel(operand), device=device).reshape(tuple(operand))
        taken = function(places)
        # In double precision: a weight is one of few numbers, and no place for rounding.
        full = torch.as_tensor(weight, dtype=torch.float64, device=device).expand(taken.shape)
        total = torch.zeros(numel(operand), dtype=torch.float64, device=device)
        total.index_add_(0, taken.reshape(-1), full.reshape(-1))
        return (total.reshape(tuple(operand)),)

    return adjoint


def reshaped(operand: Sequence[int]) -> Adjoint:
    """Return the adjoint of a reshape."""

    def adjoint(weight: Weight) -> tuple[Weight]:
        return (weight.reshape(tuple(operand)) if isinstance(weight, Tensor) else weight,)

    return adjoint


def joined(dim: int, sizes: Sequence[int]) -> Adjoint:
    """Return the adjoint of `torch.cat` along `dim` of tensors of these sizes."""

    def adjoint(weight: Weight) -> Sequence[Weight]:
        if isinstance(weight, Tensor):
            return torch.split(weight, list(sizes), dim)
        return [weight] * len(sizes)

    return adjoint


def stacked(dim: int, count: int) -> Adjoint:
    """Return the adjoint of `torch.stack` along `dim` of `count` tensors."""

    def adjoint(weight: Weight) -> Sequence[Weight]:
        return torch.unbind(weight, dim) if isinstance(weight, Tensor) else [weight] * count

    return adjoint
