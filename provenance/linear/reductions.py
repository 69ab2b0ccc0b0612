"""Linear reductions: sums over dimensions, averages, running sums, differences and traces."""

from functools import partial
from typing import Any

import torch

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.linear.build import (
    FIRST,
    Linear,
    Table,
    every,
    is_floating,
    shape_of,
)
from ancestral.provenance.linear.sums import is_rounding
from ancestral.provenance.linear.transpose import uniform
from ancestral.provenance.rules.operands import Args, Kwargs, argument
from ancestral.provenance.tensor.linear_form import Call, numel
from ancestral.provenance.tensor.tensor import NO_KEYWORDS


def _is_kept(x: Any, dtype: Any) -> bool:
    """Return whether a sum in another type is the sum."""
    if dtype is None or dtype is x.dtype:
        return True
    if not x.dtype.is_floating_point:
        return isinstance(dtype, torch.dtype) and dtype in (torch.int64, torch.float64)
    return isinstance(dtype, torch.dtype) and not is_rounding(x.dtype, dtype)


def _total(is_mean: bool, shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    x = args[0]
    dim = argument(args, kwargs, 1, "dim", "axis")
    if kwargs.get("out") is not None or not _is_kept(x, argument(args, kwargs, 3, "dtype")):
        return None
    old = shape_of(x)
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        scale = 1 / numel(old) if is_mean and numel(old) else 1.0
        return uniform(scale, old, (1,) * len(old)), (x,), _MEAN if is_mean else _SUM
    if not isinstance(dim, (int, tuple, list)) or isinstance(dim, bool):
        return None
    gone = {d % len(old) if old else 0 for d in ([dim] if isinstance(dim, int) else dim)}
    kept = tuple([1 if d in gone else size for d, size in enumerate(old)])
    if numel(kept) != numel(shape):
        return None
    scale = numel(shape) / numel(old) if is_mean and numel(old) else 1.0
    call = Call(torch.mean if is_mean else torch.sum, (FIRST, dim, shape == kept), NO_KEYWORDS, ())
    return uniform(scale, old, kept), (x,), call


_SUM = Call(torch.sum, (FIRST,), NO_KEYWORDS, ())
_MEAN = Call(torch.mean, (FIRST,), NO_KEYWORDS, ())


def _running(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    x = args[0]
    if kwargs.get("out") is not None or not _is_kept(x, argument(args, kwargs, 2, "dtype")):
        return None
    dim = argument(args, kwargs, 1, "dim", "axis")
    return None, (x,), Call(torch.cumsum, (FIRST, dim), NO_KEYWORDS, ())


def _difference(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    """Differences of neighbours; what is put before or after them is another operand."""
    besides = len(args) > 3 or any(kwargs.get(n) is not None for n in ("prepend", "append", "out"))
    return None if besides or not is_floating(args[0]) else (None, (args[0],), None)


def _transposed(shape: Shape, args: Args, kwargs: Kwargs) -> Linear | None:
    return None if kwargs.get("out") is not None else (None, (args[0],), None)


REDUCTIONS: Table = {
    **every("sum", partial(_total, False)),
    **every("mean", partial(_total, True)),
    **every("cumsum", _running),
    **every("diff", _difference),
    **every("trace sum_to_size", _transposed),
}
