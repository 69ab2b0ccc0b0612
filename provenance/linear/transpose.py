"""Transposes: the weights of the operands of a linear step from the weight of its result.

The transpose of an op that is linear in its operands is what autograd multiplies with on the way
back, wherever the operands are: `transposed` asks it, at zero and in double precision. The frequent
steps are written out, because they keep a weight that is one number a number.

>>> uniform(0.5, (4,), None, 2.0)  # half a sum of four
(1.0,)
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.tensor.linear_form import (
    Call,
    Called,
    Form,
    Hole,
    OverwrittenError,
    Placed,
    Weight,
    numel,
    version_of,
)
from ancestral.provenance.tensor.tensor import raw


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
    is_same = tuple(result) == tuple(operand)
    if isinstance(weight, Tensor):
        if is_same and weight.shape == tuple(operand):
            return weight
        return weight.expand(tuple(result)).sum_to_size(tuple(operand))
    if is_same:
        return weight
    return weight * numel(result) / max(numel(operand), 1)


def exact(factor: Any) -> Any:
    """Return a factor in double: a number times it would be in no more than its own precision."""
    is_real = isinstance(factor, Tensor) and not factor.is_complex()
    return factor.double() if is_real else factor


def summed(
    result: Sequence[int],
    shapes: Sequence[Sequence[int]],
    factors: Sequence[float],
    weight: Weight,
) -> list[Weight]:
    """Adjoint of the sum of operands of these shapes, each times a number, broadcast."""
    return [
        reduced(weight if factor == 1 else weight * factor, result, shape)
        for shape, factor in zip(shapes, factors, strict=True)
    ]


def scaled(
    result: Sequence[int],
    operand: Sequence[int],
    factor: float | Tensor,
    version: int,
    weight: Weight,
) -> tuple[Weight]:
    """Adjoint of an operand times a constant: a number, or a tensor of this version."""
    if isinstance(factor, Tensor) and version_of(factor) != version:
        raise OverwrittenError
    return (reduced(weight * exact(factor), result, operand),)


def divided(
    result: Sequence[int],
    operand: Sequence[int],
    divisor: float | Tensor,
    version: int,
    weight: Weight,
) -> tuple[Weight]:
    """Adjoint of an operand divided by a constant: a number, or a tensor of this version."""
    inverse = exact(divisor).reciprocal() if isinstance(divisor, Tensor) else 1 / divisor
    if isinstance(divisor, Tensor) and version_of(divisor) != version:
        raise OverwrittenError
    return (reduced(weight * inverse, result, operand),)


def uniform(
    scale: float, operand: Sequence[int], dims: int | Sequence[int] | None, weight: Weight
) -> tuple[Weight]:
    """Adjoint of a sum over dimensions, all for None, times a number."""
    if not isinstance(weight, Tensor):
        return (weight * scale,)
    rank = len(operand)
    listed = (dims,) if isinstance(dims, int) else dims or range(rank)
    gone = {dim % rank for dim in listed} if rank else set[int]()
    kept = [1 if dim in gone else size for dim, size in enumerate(operand)]
    return ((weight * scale).reshape(kept).expand(tuple(operand)),)


def reshaped(operand: Sequence[int], weight: Weight) -> tuple[Weight]:
    """Adjoint of a reshape, and of a step that changes neither value nor shape."""
    return (weight.reshape(tuple(operand)) if isinstance(weight, Tensor) else weight,)


def stacked(dim: int, count: int, weight: Weight) -> Sequence[Weight]:
    """Adjoint of `torch.stack` along `dim` of `count` tensors."""
    return torch.unbind(weight, dim) if isinstance(weight, Tensor) else [weight] * count


def placed(call: Call, operand: tuple[int, ...], weight: Weight) -> tuple[Placed]:
    """Adjoint of a step that takes a view of a part of its operand."""
    return (Placed(partial(replayed, call), weight, operand),)


def permuted(call: Call, operands: Sequence[tuple[int, ...]], weight: Weight) -> Sequence[Weight]:
    """Adjoint of a step that gives every element of its operands its own place."""
    if not isinstance(weight, Tensor):
        return [weight] * len(operands)
    return transposed(call, operands, weight.device, weight)


def transposed(
    call: Call, operands: Sequence[tuple[int, ...]], device: torch.device, weight: Weight
) -> Sequence[Weight]:
    """Adjoint of any op that is linear in its operands, of these shapes, jointly."""
    # In double precision: a weight is one of few numbers, and no place for rounding.
    zeros = [torch.zeros(shape, dtype=torch.float64, device=device) for shape in operands]
    with torch.enable_grad():
        result = replayed(call, *(zero.requires_grad_() for zero in zeros))
        full = torch.as_tensor(weight, dtype=torch.float64, device=device).expand(result.shape)
        is_learned = full.requires_grad or any(held.requires_grad for held, _ in call.versions)
        return torch.autograd.grad(
            result, zeros, full, create_graph=is_learned, materialize_grads=True
        )


def replayed(call: Call, *operands: Tensor) -> Tensor:
    """Return what an op makes of these operands, in double precision."""
    result: Tensor = raw(
        _functional(call.function),
        *_filled(call.args, operands),
        **{name: _filled(value, operands) for name, value in call.kwargs.items()},
    )
    return result


def _filled(value: Any, operands: Sequence[Tensor]) -> Any:
    """Return arguments with operands in their holes, and constants in double precision."""
    if isinstance(value, Hole):
        return operands[value.number]
    if type(value) in (tuple, list):
        return type(value)(_filled(item, operands) for item in value)
    if isinstance(value, torch.dtype):
        return torch.float64
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.double()
    return value


def _functional(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that computes what one in place writes."""
    name = getattr(function, "__name__", "")
    if name.startswith("__i") and name != "__init__":
        name = f"__{name[3:]}"
    elif name.endswith("_") and not name.endswith("__"):
        name = name[:-1]
    else:
        return function
    plain: Callable[..., Any] = getattr(Tensor, name)
    return plain


def _sum(factors: Sequence[float], *operands: Tensor) -> Tensor:
    terms = [x if factor == 1 else x * factor for x, factor in zip(operands, factors, strict=True)]
    return sum(terms[1:], terms[0])


_FAST: dict[Any, tuple[str, Callable[..., Tensor]]] = {
    both: ("add", torch.add),
    difference: ("sub", torch.sub),
    negative: ("neg", torch.neg),
    summed: ("add or sub", lambda *given: _sum(given[-1], *given[:-1])),
    scaled: ("mul", torch.mul),
    divided: ("div", torch.div),
}
"""The steps of the fast path, which keep no call: the name, and the function of the operands and
the third argument of the adjoint."""


def name_of(form: Form) -> str:
    """Return the name of the op that a form stands for."""
    step: Any = getattr(form[1], "func", form[1])
    if len(form) == 5 or isinstance(step, Called):
        function = form[4] if len(form) == 5 else step.function
        owner = getattr(function, "__self__", None)  # of an attribute, such as T
        return str(getattr(owner if function.__name__ == "__get__" else function, "__name__", "?"))
    return _FAST[step][0]


def value_of(form: Form, operands: Sequence[Tensor]) -> Tensor:
    """Return the value of a form from the values of its operands."""
    if len(form) == 5:
        return replayed(form[3], *operands)
    step: Any = getattr(form[1], "func", form[1])
    if isinstance(step, Called):
        return replayed(step.call, *operands)
    _, function = _FAST[step]
    return function(*operands, *map(exact, getattr(form[1], "args", ())[2:3]))
