"""Parts of linear rows: conditions on the arguments, adjoints, and rows that many ops share.

Where every element gets its own place, a weight that is one number stays one; where a part is
picked, its weights are put into those of the whole; what is left to autograd has no adjoint here.
A learned matrix is no list of coefficients but a layer, whose output is a cost.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.linear.build import (
    EVERY,
    Row,
    device_of,
    first,
    is_floating,
    is_number,
    is_tracked,
    shape_of,
)
from ancestral.provenance.linear.transpose import (
    divided,
    permuted,
    placed,
    reshaped,
    stacked,
    summed,
    transposed,
    uniform,
)
from ancestral.provenance.tensor.arguments import Args, Kwargs, argument, tensors_in
from ancestral.provenance.tensor.linear_form import Adjoint, Call, Hole, Operand, numel
from ancestral.provenance.tensor.tensor import NO_KEYWORDS

_Operands = tuple[Operand, ...]


def sum_of(*signs: float, scaled_by_alpha: int = 1) -> Callable[..., Adjoint]:
    """Return what makes the adjoint of a sum; `alpha` multiplies one of the operands."""

    def adjoint(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
        factors = list(signs)
        if "alpha" in call.kwargs:
            factors[scaled_by_alpha] *= call.kwargs["alpha"]
        return partial(summed, shape, [shape_of(x) for x in operands], factors)

    return adjoint


def times(adjoint: Callable[..., Any], shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    """The adjoint of a product with a constant, or of a quotient by one."""
    given = (*call.args, *call.kwargs.values())
    (factor,) = [x for x in given if x is not None and not isinstance(x, Hole)]
    version = call.versions[0][1] if call.versions else 0
    return partial(adjoint, shape, shape_of(operands[0]), factor, version)


def averaged(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    """Return the adjoint of a sum over dimensions, or of a mean."""
    old = shape_of(operands[0])
    is_mean = call.function.__name__ == "mean" and numel(old) > 0
    dims = argument(call.args, call.kwargs, 1, "dim", "axis")
    return partial(uniform, numel(shape) / numel(old) if is_mean else 1.0, old, dims)


def rearranged(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    """Return the adjoint of a step that gives every element its own place."""
    return partial(permuted, call, [shape_of(x) for x in operands])


def each_apart(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    """Return the adjoint of `torch.stack`."""
    dim = argument(call.args, call.kwargs, 1, "dim", "axis", default=0)
    return partial(stacked, dim, len(operands))


def in_old_shape(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    """Return the adjoint of a step that leaves the values as they are."""
    return partial(reshaped, shape_of(operands[0]))


def part(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    """The adjoint of a view of a part; what tensors pick may be met twice."""
    old = shape_of(operands[0])
    if any(True for _ in tensors_in(call.args)):
        return partial(transposed, call, [old], device_of(operands))
    return partial(placed, call, old)


def is_sum(args: Args, kwargs: Kwargs) -> bool:
    """Of truth values, a sum is an or."""
    is_logical = any(x.dtype == torch.bool for x in tensors_in(args, kwargs))
    return not is_logical and is_number(kwargs.get("alpha", 1))


def is_product(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a product is one of numbers, and none of truth values."""
    given = (first(args, kwargs), argument(args, kwargs, 1, "other"))
    return all(
        x.dtype != torch.bool if is_tracked(x) else isinstance(x, (Tensor, int, float))
        for x in given
    )


def is_quotient(args: Args, kwargs: Kwargs) -> bool:
    """Return whether it is divided by a constant, and nothing rounded."""
    divisor = argument(args, kwargs, 1, "other")
    is_divisor = not is_tracked(divisor) if isinstance(divisor, Tensor) else bool(divisor)
    return is_divisor and kwargs.get("rounding_mode") is None and is_product(args, kwargs)


def has_floating(args: Args, kwargs: Kwargs) -> bool:
    """Return whether the first operand is of real numbers."""
    return is_floating(first(args, kwargs))


def are_floating(args: Args, kwargs: Kwargs) -> bool:
    """Return whether all factors are real: autograd multiplies no integers with doubles."""
    factors = (*args, *(kwargs[name] for name in kwargs if name not in _NUMBERS))
    return all(is_floating(x) for x in tensors_in(factors))


_NUMBERS = ("value", "alpha", "beta")


def is_rounding(old: torch.dtype, new: torch.dtype) -> bool:
    """Return whether numbers of one type do not all fit another."""
    if not (old.is_floating_point and new.is_floating_point):
        return True
    return torch.finfo(new).eps > torch.finfo(old).eps


def is_cast(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a type holds every value; what is rounded is another cost."""
    given = [x.dtype if isinstance(x, Tensor) else x for x in (*args[1:], *kwargs.values())]
    named = [dtype for dtype in given if isinstance(dtype, torch.dtype)] or [args[0].dtype]
    return not any(is_rounding(args[0].dtype, dtype) for dtype in named)


def is_single(args: Args, kwargs: Kwargs) -> bool:
    """Return whether single precision holds every value."""
    return not is_rounding(args[0].dtype, torch.float32)


def is_kept(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a sum in another type is the sum."""
    old, new = first(args, kwargs).dtype, kwargs.get("dtype")
    if new is None or new is old:
        return True
    if old.is_floating_point:
        return not is_rounding(old, new)
    return not old.is_complex and new in _WIDE


def is_total(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a sum is over dimensions that are known by number."""
    if len(args) == 1 and not kwargs:  # the most frequent
        return True
    dims = argument(args, kwargs, 1, "dim", "axis")
    listed = dims if isinstance(dims, (tuple, list)) else [dims]
    return all(dim is None or type(dim) is int for dim in listed) and is_kept(args, kwargs)


_WIDE = (torch.int64, torch.float64)


def is_exact(args: Args, kwargs: Kwargs) -> bool:
    """Return whether products of matrices are of real numbers, in the precision of their type."""
    if (
        not are_floating(args, kwargs)
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
    ):
        return False
    is_highest = torch.get_float32_matmul_precision() == "highest"
    return is_highest or device_of(tensors_in(args, kwargs)).type == "cpu"


def is_of_constant(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a product of two is no layer."""
    learned = (x for x in tensors_in(args, kwargs) if x.ndim > 1 and not is_tracked(x))
    return not any(x.requires_grad for x in learned) and is_exact(args, kwargs)


def is_same_type(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a view is of the same type."""
    given = (*args, *kwargs.values())
    return not any(isinstance(x, torch.dtype) for x in given)


def _reshape(shape: Shape) -> Call:
    return Call(torch.reshape, (Hole(0), shape), NO_KEYWORDS, ())


def _expand(shape: Shape) -> Call:
    return Call(Tensor.expand, (Hole(0), *shape), NO_KEYWORDS, ())


PLAIN = Row()
COPY = Row("input", has_floating, in_old_shape, _reshape, is_static=True)
CAST = Row(condition=is_cast, adjoint=in_old_shape, call=_reshape)
VIEW = Row("input", is_same_type, in_old_shape, _reshape, is_static=True)
EXPANSION = Row("input", None, sum_of(1.0), _expand, is_static=True)
SINGLE = Row(condition=is_single, adjoint=in_old_shape, call=_reshape)
QUOTIENT = Row("input [other]", is_quotient, partial(times, divided))
MOVE = Row(adjoint=rearranged, is_static=True)
PART = Row(adjoint=part, is_static=True)
JOIN = Row(EVERY, None, rearranged, is_static=True)
CONTRACTION = Row("input|x * tensor|other|vec|vec2|mat2|tensor2|y", is_of_constant)
