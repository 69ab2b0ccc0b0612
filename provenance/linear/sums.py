"""Linear sums: the elementwise ops that are linear, and the casts that round nothing."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.linear.build import (
    FIRST,
    SECOND,
    Linear,
    Table,
    constant_call,
    every,
    is_constant,
    is_floating,
    is_number,
    is_tracked,
    shape_of,
)
from ancestral.provenance.linear.transpose import divided, same, scaled, summed
from ancestral.provenance.rules.operands import Args, Kwargs, argument
from ancestral.provenance.tensor.linear_form import Call, version_of
from ancestral.provenance.tensor.tensor import NO_KEYWORDS


def _summed(shape: Shape, operands: tuple[Any, ...], factors: tuple[float, ...]) -> Any:
    return partial(summed, shape, [shape_of(operand) for operand in operands], factors)


_SUMMED = {
    1.0: Call(torch.add, (FIRST, SECOND), NO_KEYWORDS, ()),
    -1.0: Call(torch.sub, (FIRST, SECOND), NO_KEYWORDS, ()),
}


def _add(sign: float, shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    a, b = args[0], argument(args, kwargs, 1, "other")
    alpha = kwargs.get("alpha", 1)
    if len(args) > 2 or kwargs.get("out") is not None or not is_number(alpha):
        return None
    if any(isinstance(t, Tensor) and t.dtype == torch.bool for t in (a, b)):
        return None  # a logical or
    call = _SUMMED[sign] if alpha == 1 else Call(*_SUMMED[sign][:2], {"alpha": alpha}, ())
    return _summed(shape, (a, b), (1.0, sign * alpha)), (a, b), call


def _rsub(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    a, b = args[0], argument(args, kwargs, 1, "other")
    alpha = kwargs.get("alpha", 1)
    if len(args) > 2 or not is_number(alpha):
        return None
    call = Call(torch.rsub, (FIRST, SECOND), {"alpha": alpha}, ())
    return _summed(shape, (a, b), (-1.0 * alpha, 1.0)), (a, b), call


def _neg(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    return _summed(shape, (args[0],), (-1.0,)), (args[0],), None


def _version(factor: Any) -> int:
    return version_of(factor) if isinstance(factor, Tensor) else 0


def _mul(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    a, b = args[0], argument(args, kwargs, 1, "other")
    if is_constant(a) and is_tracked(b):
        a, b = b, a
    if (
        kwargs.get("out") is not None
        or not (is_tracked(a) and is_constant(b))
        or a.dtype == torch.bool
    ):
        return None
    return (
        partial(scaled, shape, shape_of(a), b, _version(b)),
        (a,),
        constant_call(torch.mul, FIRST, b),
    )


def _div(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    a, b = args[0], argument(args, kwargs, 1, "other")
    rounded = argument(args, kwargs, 2, "rounding_mode") is not None
    if rounded or kwargs.get("out") is not None or not (is_tracked(a) and is_constant(b)):
        return None
    if not isinstance(b, Tensor) and not b:
        return None
    return (
        partial(divided, shape, shape_of(a), b, _version(b)),
        (a,),
        constant_call(torch.div, FIRST, b),
    )


def _fused(operation: Any, shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """`addcmul` and `addcdiv`: the first tensor, and one of the factors, or the numerator."""
    if (
        kwargs.get("out") is not None
        or len(args) + ("tensor1" in kwargs) + ("tensor2" in kwargs) != 3
    ):
        return None
    first = args[0]
    a, b = argument(args, kwargs, 1, "tensor1"), argument(args, kwargs, 2, "tensor2")
    value = kwargs.get("value", 1)
    if not is_number(value) or not is_floating(first):
        return None
    if is_tracked(b) and operation is torch.addcmul:
        a, b = b, a
    if is_tracked(b):
        return None
    return None, (first, a), constant_call(operation, FIRST, SECOND, b, value=value)


def _lerp(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    start, end = args[0], argument(args, kwargs, 1, "end")
    weight = argument(args, kwargs, 2, "weight")
    if kwargs.get("out") is not None or not is_constant(weight):
        return None
    return None, (start, end), constant_call(torch.lerp, FIRST, SECOND, weight)


def _chosen(condition: Any, a: Any, b: Any) -> Linear | None:
    if not isinstance(condition, Tensor) or is_tracked(condition):
        return None
    if not all([isinstance(x, (Tensor, int, float)) for x in (a, b)]):
        return None
    call = Call(
        torch.where, (condition, FIRST, SECOND), NO_KEYWORDS, ((condition, version_of(condition)),)
    )
    return None, (a, b), call


def _where(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    x, other = argument(args, kwargs, 1, "input", "self"), argument(args, kwargs, 2, "other")
    return None if kwargs.get("out") is not None else _chosen(args[0], x, other)


def _where_of(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    condition, other = argument(args, kwargs, 1, "condition"), argument(args, kwargs, 2, "other")
    return _chosen(condition, args[0], other)


def _masked_fill(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    x, mask = args[0], argument(args, kwargs, 1, "mask")
    return _chosen(mask, argument(args, kwargs, 2, "value"), x) if is_floating(x) else None


def _unchanged(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    return (same, (args[0],), _ITSELF) if is_floating(args[0]) else None


def _itself(x: Tensor) -> Tensor:
    return x


_ITSELF = Call(_itself, (FIRST,), NO_KEYWORDS, ())


def is_rounding(old: torch.dtype, new: torch.dtype) -> bool:
    """Return whether numbers of one type do not all fit another."""
    if not (old.is_floating_point and new.is_floating_point):
        return True
    return torch.finfo(new).eps > torch.finfo(old).eps


def _cast(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """To a type that holds every value; what is rounded is another cost."""
    given = [x.dtype if isinstance(x, Tensor) else x for x in (*args[1:], *kwargs.values())]
    named = [dtype for dtype in given if isinstance(dtype, torch.dtype)] or [args[0].dtype]
    if any(is_rounding(args[0].dtype, dtype) for dtype in named):
        return None
    return same, (args[0],), _ITSELF


def _single(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    return _cast(shape, (args[0], torch.float32), {})


SUMS: Table = {
    **every("add __add__ __radd__ __iadd__ add_", partial(_add, 1.0)),
    **every("sub subtract __sub__ __isub__ sub_", partial(_add, -1.0)),
    **every("rsub __rsub__", _rsub),
    **every("neg negative __neg__ neg_", _neg),
    **every("mul multiply __mul__ __rmul__ __imul__ mul_", _mul),
    **every("div divide true_divide __truediv__ __itruediv__ div_", _div),
    **every("addcmul", partial(_fused, torch.addcmul)),
    **every("addcdiv", partial(_fused, torch.addcdiv)),
    **every("lerp", _lerp),
    **every("where", _where, torch),
    **every("where", _where_of, Tensor),
    **every("masked_fill", _masked_fill),
    **every("clone contiguous double", _unchanged),
    **every("to type_as", _cast),
    **every("float", _single),
}
