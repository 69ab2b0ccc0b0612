"""Linear products: contractions that are linear in their tracked operand.

A learned matrix is no list of coefficients but a layer, whose output is a cost.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.linear.build import (
    Linear,
    Table,
    device_of,
    every,
    is_number,
    is_tracked,
)
from ancestral.provenance.rules.operands import Args, Kwargs, argument


def _is_exact(tensor: Tensor) -> bool:
    """Return whether products of matrices are computed in the precision of their type."""
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        return False
    return torch.get_float32_matmul_precision() == "highest" or device_of([tensor]).type == "cpu"


def _product(factors: Sequence[Any]) -> Linear | None:
    """A product whose only tracked factor is the operand."""
    tracked = [factor for factor in factors if is_tracked(factor)]
    if len(tracked) != 1 or not _is_exact(tracked[0]):
        return None
    return None, (tracked[0],), None


def _of_two(names: tuple[str, ...], shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    a, b = args[0], args[1] if len(args) > 1 else argument(args, kwargs, 1, *names)
    if is_tracked(a):
        operand, constant = a, b
    else:
        operand, constant = b, a
    if kwargs.get("out") is not None or is_tracked(constant) or not _is_exact(operand):
        return None
    if constant.requires_grad and constant.ndim > 1:
        return None
    return None, (operand,), None


def _of_all(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """A product of a list of tensors, given as one or one by one, after a text or not."""
    given = [item for item in args if not isinstance(item, str)]
    if kwargs.get("out") is not None or (
        len(given) > 1 and any(isinstance(x, (list, tuple)) for x in given)
    ):
        return None  # sublists say which dimensions meet
    return _product(given[0] if isinstance(given[0], (list, tuple)) else given)


def _added(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """`addmm` and its like: a tensor plus a product, each times a number."""
    factors = args[1:3]
    numbers = [kwargs.get("alpha", 1), kwargs.get("beta", 1)]
    if len(args) != 3 or kwargs.get("out") is not None or not all(map(is_number, numbers)):
        return None
    return _affine(args[0], factors)


def _affine(first: Tensor, factors: Sequence[Tensor]) -> Linear | None:
    tracked = [factor for factor in factors if is_tracked(factor)]
    if len(tracked) > 1 or not _is_exact(first):
        return None
    main = tracked[0] if tracked else factors[0]
    # What stands twice in the call would be two operands in one hole.
    others = [factor for factor in factors if factor is not main]
    if first is main or len(others) != 1 or others[0] is first:
        return None
    return None, (first, main), None


def _linear(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """A linear map of costs with constants."""
    x, weight = args[0], argument(args, kwargs, 1, "weight")
    bias = argument(args, kwargs, 2, "bias")
    if weight.requires_grad and not is_tracked(weight):
        return None
    return _product([x, weight]) if bias is None else _affine(bias, (x, weight))


_SECOND: dict[str, tuple[str, ...]] = {
    "dot": ("tensor", "other"),
    "vdot": ("other",),
    "inner": ("other",),
    "outer": ("vec2",),
    "ger": ("vec2",),
    "mv": ("vec",),
    "mm": ("mat2",),
    "bmm": ("mat2",),
    "matmul": ("other", "tensor2"),
    "__matmul__": ("other",),
    "__rmatmul__": ("other",),
    "tensordot": ("b",),
    "kron": ("other",),
}


def _products() -> Table:
    found: Table = {}
    for name, names in _SECOND.items():
        found |= every(name, partial(_of_two, names))
    return found


CONTRACTIONS: Table = {
    **_products(),
    **every("vecdot", partial(_of_two, ("y", "other")), torch.linalg),
    **every("einsum", _of_all, torch),
    **every("multi_dot", _of_all, torch.linalg),
    **every("addmv addmm addbmm baddbmm addr", _added),
    F.linear: _linear,
}
