"""Table of linear ops: a row for each, with its names in torch and Tensor, or with their namespace.

Where every element gets its own place, a weight that is one number stays one; where a part is
picked, its weights are put into those of the whole; what is left to autograd has no adjoint here.
A learned matrix is no list of coefficients but a layer, whose output is a cost.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.linear.build import (
    EVERY,
    ONE,
    Builder,
    Row,
    device_of,
    first,
    is_floating,
    is_number,
    is_tracked,
    shape_of,
)
from ancestral.provenance.linear.loss_functions import LOSSES
from ancestral.provenance.linear.transpose import (
    divided,
    permuted,
    placed,
    reshaped,
    scaled,
    stacked,
    summed,
    transposed,
    uniform,
)
from ancestral.provenance.rules.operands import Args, Kwargs, argument, tensors_in
from ancestral.provenance.tensor.linear_form import Adjoint, Call, Hole, Operand, numel
from ancestral.provenance.tensor.tensor import NO_KEYWORDS

_Operands = tuple[Operand, ...]


def _sum_of(*signs: float, scaled_by_alpha: int = 1) -> Callable[..., Adjoint]:
    """Return what makes the adjoint of a sum; `alpha` multiplies one of the operands."""

    def adjoint(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
        factors = list(signs)
        if "alpha" in call.kwargs:
            factors[scaled_by_alpha] *= call.kwargs["alpha"]
        return partial(summed, shape, [shape_of(x) for x in operands], factors)

    return adjoint


def _times(adjoint: Callable[..., Any], shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    """The adjoint of a product with a constant, or of a quotient by one."""
    given = (*call.args, *call.kwargs.values())
    (factor,) = [x for x in given if x is not None and not isinstance(x, Hole)]
    version = call.versions[0][1] if call.versions else 0
    return partial(adjoint, shape, shape_of(operands[0]), factor, version)


def _averaged(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    old = shape_of(operands[0])
    is_mean = call.function.__name__ == "mean" and numel(old) > 0
    dims = argument(call.args, call.kwargs, 1, "dim", "axis")
    return partial(uniform, numel(shape) / numel(old) if is_mean else 1.0, old, dims)


def _moved(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    return partial(permuted, call, [shape_of(x) for x in operands], device_of(operands))


def _stacked(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    dim = argument(call.args, call.kwargs, 1, "dim", "axis", default=0)
    return partial(stacked, dim, len(operands))


def _reshaped(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    return partial(reshaped, shape_of(operands[0]))


def _part(shape: Shape, operands: _Operands, call: Call) -> Adjoint:
    """The adjoint of a view of a part; what tensors pick may be met twice."""
    old = shape_of(operands[0])
    if any(True for _ in tensors_in(call.args)):
        return partial(transposed, call, [old], device_of(operands))
    return partial(placed, call, old)


def _is_sum(args: Args, kwargs: Kwargs) -> bool:
    """Of truth values, a sum is an or."""
    is_logical = any(x.dtype == torch.bool for x in tensors_in(args, kwargs))
    return not is_logical and is_number(kwargs.get("alpha", 1))


def _is_product(args: Args, kwargs: Kwargs) -> bool:
    given = (first(args, kwargs), argument(args, kwargs, 1, "other"))
    return all(
        x.dtype != torch.bool if is_tracked(x) else isinstance(x, (Tensor, int, float))
        for x in given
    )


def _is_quotient(args: Args, kwargs: Kwargs) -> bool:
    divisor = argument(args, kwargs, 1, "other")
    is_divisor = not is_tracked(divisor) if isinstance(divisor, Tensor) else bool(divisor)
    return is_divisor and kwargs.get("rounding_mode") is None and _is_product(args, kwargs)


def _is_floating(args: Args, kwargs: Kwargs) -> bool:
    return is_floating(first(args, kwargs))


def _are_floating(args: Args, kwargs: Kwargs) -> bool:
    """Return whether all factors are real: autograd multiplies no integers with doubles."""
    factors = (*args, *(kwargs[name] for name in kwargs if name not in _NUMBERS))
    return all(is_floating(x) for x in tensors_in(factors))


_NUMBERS = ("value", "alpha", "beta")


def is_rounding(old: torch.dtype, new: torch.dtype) -> bool:
    """Return whether numbers of one type do not all fit another."""
    if not (old.is_floating_point and new.is_floating_point):
        return True
    return torch.finfo(new).eps > torch.finfo(old).eps


def _is_cast(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a type holds every value; what is rounded is another cost."""
    given = [x.dtype if isinstance(x, Tensor) else x for x in (*args[1:], *kwargs.values())]
    named = [dtype for dtype in given if isinstance(dtype, torch.dtype)] or [args[0].dtype]
    return not any(is_rounding(args[0].dtype, dtype) for dtype in named)


def _is_single(args: Args, kwargs: Kwargs) -> bool:
    return not is_rounding(args[0].dtype, torch.float32)


def _is_kept(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a sum in another type is the sum."""
    old, new = first(args, kwargs).dtype, kwargs.get("dtype")
    if new is None or new is old:
        return True
    if old.is_floating_point:
        return not is_rounding(old, new)
    return not old.is_complex and new in _WIDE


def _is_total(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a sum is over dimensions that are known by number."""
    if len(args) == 1 and not kwargs:  # the most frequent
        return True
    dims = argument(args, kwargs, 1, "dim", "axis")
    listed = dims if isinstance(dims, (tuple, list)) else [dims]
    return all(dim is None or type(dim) is int for dim in listed) and _is_kept(args, kwargs)


_WIDE = (torch.int64, torch.float64)


def _is_exact(args: Args, kwargs: Kwargs) -> bool:
    """Return whether products of matrices are of real numbers, in the precision of their type."""
    if (
        not _are_floating(args, kwargs)
        or torch.is_autocast_enabled("cpu")
        or torch.is_autocast_enabled("cuda")
    ):
        return False
    is_highest = torch.get_float32_matmul_precision() == "highest"
    return is_highest or device_of(tensors_in(args, kwargs)).type == "cpu"


def _is_of_constant(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a product of two is no layer."""
    learned = (x for x in tensors_in(args, kwargs) if x.ndim > 1 and not is_tracked(x))
    return not any(x.requires_grad for x in learned) and _is_exact(args, kwargs)


def _is_map(args: Args, kwargs: Kwargs) -> bool:
    weight = argument(args, kwargs, 1, "weight")
    return (is_tracked(weight) or not weight.requires_grad) and _is_exact(args, kwargs)


def _is_choice(args: Args, kwargs: Kwargs) -> bool:
    """Return whether the operands may be tensors: one that is named `self` is a number."""
    return "self" not in kwargs


def _is_same_type(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a view is of the same type."""
    given = (*args, *kwargs.values())
    return not any(isinstance(x, torch.dtype) for x in given)


def _is_index(args: Args, kwargs: Kwargs) -> bool:
    """Return whether an index holds nothing but tensors, slices and numbers."""
    items = args[1] if isinstance(args[1], tuple) else (args[1],)
    bounds = [x for i in items if type(i) is slice for x in (i.start, i.stop, i.step)]
    others = [i for i in items if type(i) is not slice and not isinstance(i, Tensor)]
    return all(x is None or x is Ellipsis or type(x) is int for x in (*bounds, *others))


def _is_repeated(args: Args, kwargs: Kwargs) -> bool:
    """Return whether there is more than a number of repeats, of which the indices are asked for."""
    return argument(args, kwargs, 1, "repeats") is not None


def _is_zero_padding(args: Args, kwargs: Kwargs) -> bool:
    mode = argument(args, kwargs, 2, "mode", default="constant")
    return mode != "constant" or not argument(args, kwargs, 3, "value")


def _reshape(shape: Shape) -> Call:
    return Call(torch.reshape, (Hole(0), shape), NO_KEYWORDS, ())


def _expand(shape: Shape) -> Call:
    return Call(Tensor.expand, (Hole(0), *shape), NO_KEYWORDS, ())


_SAME = Row(condition=_is_floating, adjoint=_reshaped, call=_reshape)
_MOVES = Row(adjoint=_moved)
_PARTS = Row(adjoint=_part)

TABLE: dict[str, Row] = {
    # Sums and products of elements.
    "add __add__ __radd__ __iadd__ add_": Row("input + other", _is_sum, _sum_of(1.0, 1.0)),
    "sub subtract __sub__ __isub__ sub_": Row("input + other", _is_sum, _sum_of(1.0, -1.0)),
    "rsub __rsub__": Row("input + other", _is_sum, _sum_of(-1.0, 1.0, scaled_by_alpha=0)),
    "neg negative __neg__ neg_": Row(adjoint=_sum_of(-1.0)),
    "mul multiply __mul__ __rmul__ __imul__ mul_": Row(
        "input * other", _is_product, partial(_times, scaled)
    ),
    "div divide true_divide __truediv__ __itruediv__ div_": Row(
        "input [other]", _is_quotient, partial(_times, divided)
    ),
    "addcmul": Row("input + tensor1 * tensor2", _are_floating),
    "addcdiv": Row("input + tensor1 [tensor2]", _are_floating),
    "lerp": Row("input + end [weight]"),
    "torch.where": Row("[condition] + input + other", _is_choice),
    "Tensor.where": Row("input [condition] + other"),
    "masked_fill": Row("input [mask] + value", _is_floating),
    # Casts that round nothing.
    "clone contiguous double": _SAME,
    "to type_as": Row(condition=_is_cast, adjoint=_reshaped, call=_reshape),
    "float": Row(condition=_is_single, adjoint=_reshaped, call=_reshape),
    # Sums over dimensions.
    "sum mean": Row("input", _is_total, _averaged),
    "cumsum": Row("input", _is_kept),
    "diff": Row("input [n] [dim] + prepend + append", _is_floating),
    "trace sum_to_size": Row(),
    # Products of matrices.
    "dot mv mm bmm matmul __matmul__ __rmatmul__ vdot inner outer ger kron linalg.vecdot": Row(
        "input|x * tensor|other|vec|vec2|mat2|tensor2|y", _is_of_constant
    ),
    "tensordot": Row("a * b [dims]", _is_of_constant),
    "torch.einsum linalg.multi_dot": Row(ONE, _is_exact),
    "addmv": Row("input + mat * vec", _is_exact),
    "addmm": Row("input + mat1 * mat2", _is_exact),
    "addbmm baddbmm": Row("input + batch1 * batch2", _is_exact),
    "addr": Row("input + vec1 * vec2", _is_exact),
    "functional.linear": Row("input * weight + bias", _is_map),
    # Moves of elements.
    "reshape view flatten ravel squeeze unsqueeze unflatten view_as reshape_as atleast_1d "
    "atleast_2d atleast_3d": Row("input", _is_same_type, _reshaped, _reshape),
    "expand expand_as broadcast_to": Row("input", None, _sum_of(1.0), _expand),
    "permute transpose swapaxes swapdims movedim moveaxis t adjoint get.T get.mT get.H get.mH "
    "flip fliplr flipud roll rot90": _MOVES,
    "stack": Row(EVERY, None, _stacked),  # the costs of a loop
    "cat concat concatenate hstack vstack dstack column_stack row_stack block_diag": Row(
        EVERY, None, _moved
    ),
    # Picks, repeats and writes of elements.
    "select narrow diagonal": _PARTS,
    "__getitem__": Row("input", _is_index, _part),
    "index_select gather take take_along_dim masked_select unfold repeat tile tril triu diag "
    "diag_embed diagflat": Row(),
    "repeat_interleave": Row(condition=_is_repeated),
    "scatter_add": Row("input [dim] [index] + src", _is_sum),
    "index_add": Row("input [dim] [index] + source", _is_sum),
    "select_scatter": Row("input + src [dim] [index]"),
    "slice_scatter": Row("input + src [dim] [start] [end] [step]"),
    "diagonal_scatter": Row("input + src [offset] [dim1] [dim2]"),
    "functional.pad": Row("input", _is_zero_padding),
}

_NAMESPACES: dict[str, Any] = {
    "torch": torch,
    "Tensor": Tensor,
    "linalg": torch.linalg,
    "functional": F,
}


def functions(names: str) -> list[Callable[..., Any]]:
    """Return the functions of some names, wherever they are found."""
    found: list[Callable[..., Any]] = []
    for name in names.split():
        namespace, _, short = name.rpartition(".")
        if namespace == "get":
            found.append(getattr(Tensor, short).__get__)
            continue
        spaces = [_NAMESPACES[namespace]] if namespace else [torch, Tensor]
        found += [getattr(space, short) for space in spaces if hasattr(space, short)]
    return [function for function in found if callable(function)]  # torch.double is a type


LINEAR: dict[Callable[..., Any], Builder] = {
    **{function: row for names, row in TABLE.items() for function in functions(names)},
    **LOSSES,
}

SPLITS = frozenset(
    functions("unbind split split_with_sizes chunk tensor_split vsplit hsplit dsplit")
)
"""The ops that return the parts of their operand, in order."""
