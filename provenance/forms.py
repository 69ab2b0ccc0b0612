"""Which ops are linear: the table from an op to the form that its result gets.

Everything that is missing here is one cost of its own; that is always right and costs variance
only.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance import watching
from ancestral.provenance.alignment import Shape
from ancestral.provenance.linear import (
    Adjoint,
    Form,
    Operand,
    Weight,
    combination,
    exact,
    joined,
    numel,
    rearranged,
    reshaped,
    same,
    serials,
    stacked,
    uniform,
)
from ancestral.provenance.rules import Args, Kwargs, argument, positional
from ancestral.provenance.tensor import raw

Builder = Callable[[Shape, Args, Kwargs], tuple[Adjoint, tuple[Operand, ...]] | None]


class Unreduced(NamedTuple):
    """A loss of `torch.nn.functional` before its reduction, computed when it is asked for."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def compute(self) -> Tensor:
        """Return the loss of every element."""
        return self.function(*self.args, **{**self.kwargs, "reduction": "none"})


LINEAR: dict[Callable[..., Any], Builder] = {}


def form_of(function: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs) -> Form | None:
    """Return the form of the result of an op, or None where the op is not linear."""
    builder = LINEAR.get(function)
    built = None if builder is None else builder(shape, *positional(args, kwargs))
    if built is None:
        return None
    adjoint, operands = built
    return (next(serials), adjoint, tuple(resolve(operand) for operand in operands))


def resolve(operand: Operand) -> Operand:
    """Return the form of an operand as it is now, or the operand itself as a leaf.

    What was written through another tensor on its memory leaves its form behind.
    """
    found = getattr(operand, "_provenance", None)
    if found is not None and found.universe.state == "settled":
        return raw(Tensor.detach, operand)  # a constant, that holds on to no recording
    form: Form | None = getattr(operand, "_form", None)
    return operand if form is None or _written_elsewhere(operand, form[0]) else form


def written_since(tensor: Tensor, serial: int) -> bool:
    """Return whether a tensor was written into after the linear form of this number was made."""
    return getattr(tensor, "_written", -1) > serial or _written_elsewhere(tensor, serial)


def _written_elsewhere(tensor: Tensor, serial: int) -> bool:
    if not watching.table:
        return False
    storage = raw(watching.storage_of, tensor)
    return storage is not None and watching.written(storage) > serial


def is_number(value: object) -> bool:
    """Return whether `value` is a real number of Python."""
    return isinstance(value, (int, float))


def is_tracked(value: object) -> bool:
    """Return whether `value` is a tensor with provenance."""
    return getattr(value, "_provenance", None) is not None


def _combined(
    shape: Shape, operands: tuple[Any, Any], factors: tuple[Any, Any]
) -> tuple[Adjoint, tuple[Operand, ...]]:
    return combination(shape, operands, factors), operands


def _add(sign: float, shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    a, b = args[0], argument(args, kwargs, 1, "other")
    alpha = kwargs.get("alpha", 1)
    if len(args) > 2 or "out" in kwargs or not is_number(alpha):
        return None
    if any(isinstance(t, Tensor) and t.dtype == torch.bool for t in (a, b)):
        return None  # a logical or
    return _combined(shape, (a, b), (1.0, sign * alpha))


def _rsub(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    return _combined(shape, (args[0], args[1]), (-1.0, 1.0)) if len(args) == 2 else None


def _neg(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    return combination(shape, (args[0],), (-1.0,)), (args[0],)


def _is_constant(value: object) -> bool:
    return is_number(value) or (isinstance(value, Tensor) and not is_tracked(value))


def _mul(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    a, b = args[0], argument(args, kwargs, 1, "other")
    if _is_constant(a) and is_tracked(b):
        a, b = b, a
    if "out" in kwargs or not (is_tracked(a) and _is_constant(b)) or a.dtype == torch.bool:
        return None
    return combination(shape, (a,), (b,)), (a,)


def _div(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    a, b = args[0], argument(args, kwargs, 1, "other")
    rounded = argument(args, kwargs, 2, "rounding_mode") is not None
    if rounded or "out" in kwargs or not (is_tracked(a) and _is_constant(b)):
        return None
    factor: Any = exact(b).reciprocal() if isinstance(b, Tensor) else (1 / b if b else None)
    return None if factor is None else (combination(shape, (a,), (factor,)), (a,))


def _total(is_mean: bool, shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    x = args[0]
    dim = argument(args, kwargs, 1, "dim", "axis")
    old = tuple(x.shape)
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        gone = set(range(len(old)))
    elif isinstance(dim, (int, tuple, list)) and not isinstance(dim, bool):
        gone = {d % len(old) if old else 0 for d in ([dim] if isinstance(dim, int) else dim)}
    else:
        return None
    kept = tuple(1 if d in gone else size for d, size in enumerate(old))
    if numel(kept) != numel(shape):
        return None
    scale = numel(shape) / numel(old) if is_mean and numel(old) else 1.0
    return uniform(scale, old, kept), (x,)


def _reshape(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    x = args[0]
    if numel(x.shape) != numel(shape):  # a view as another type
        return None
    return reshaped(tuple(x.shape)), (x,)


def _unchanged(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    return (same, (args[0],)) if args[0].dtype.is_floating_point else None


def _cast(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    """To a type that holds every value; what is rounded is another cost."""
    given = [x.dtype if isinstance(x, Tensor) else x for x in (*args[1:], *kwargs.values())]
    named = [dtype for dtype in given if isinstance(dtype, torch.dtype)]
    fine = (args[0].dtype, *named)
    if not all(dtype.is_floating_point for dtype in fine):
        return None
    is_rounded = any(torch.finfo(t).eps > torch.finfo(args[0].dtype).eps for t in named)
    return None if is_rounded else (same, (args[0],))


def _single(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    return _cast(shape, (args[0], torch.float32), {})


def _expand(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    return combination(shape, (args[0],), (1.0,)), (args[0],)


def _rearranged(function: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    rest = tuple(args[1:])
    if any(isinstance(item, Tensor) for item in [*rest, *kwargs.values()]):
        return None
    step = partial(_apply, function, rest, dict(kwargs))
    return rearranged(step, tuple(args[0].shape), args[0].device), (args[0],)


def _apply(
    function: Callable[..., Tensor], rest: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor
) -> Tensor:
    return function(x, *rest, **kwargs)


def _getitem(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    x, index = args
    items = index if isinstance(index, tuple) else (index,)
    plain = (type(None), type(Ellipsis), int, slice)
    if not all(isinstance(item, plain) or type(item) is Tensor for item in items):
        return None
    return rearranged(partial(_index, index), tuple(x.shape), x.device), (x,)


def _index(index: Any, x: Tensor) -> Tensor:
    return x[index]


def _cat(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    operands = tuple(argument(args, kwargs, 0, "tensors"))
    dim = argument(args, kwargs, 1, "dim", "axis", default=0)
    if "out" in kwargs or any(len(x.shape) != len(shape) for x in operands):
        return None
    return joined(dim, [x.shape[dim] for x in operands]), operands


def _stack(shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    operands = tuple(argument(args, kwargs, 0, "tensors"))
    dim = argument(args, kwargs, 1, "dim", "axis", default=0)
    return None if "out" in kwargs else (stacked(dim, len(operands)), operands)


def _loss(function: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs) -> Any:
    """A loss of `torch.nn.functional`: the mean or the sum of what `reduction="none"` gives."""
    reduction = kwargs.get("reduction", "mean")
    legacy = any(kwargs.get(name) is not None for name in ("size_average", "reduce"))
    positional = len(args) > _TENSORS[function]
    if legacy or positional or reduction not in ("mean", "sum", "batchmean"):
        return None
    unreduced = Unreduced(function, tuple(args), dict(kwargs))
    if reduction == "sum":
        return partial(_spread, lambda: 1.0), (unreduced,)
    if reduction == "batchmean":
        return partial(_spread, lambda: 1.0 / args[0].shape[0]), (unreduced,)
    return partial(_spread, partial(_mean_weight, function, args, kwargs)), (unreduced,)


def _spread(scale: Callable[[], Weight], weight: Weight) -> tuple[Weight]:
    return (weight * scale(),)


def _mean_weight(function: Callable[..., Any], args: Args, kwargs: Kwargs) -> Weight:
    """Return what the mean divides by, inverted: the classes' weights count, ignored ones not."""
    if function not in (F.cross_entropy, F.nll_loss):
        shapes = [t.shape for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        broadcast: torch.Size = torch.broadcast_shapes(*shapes)
        return 1.0 / max(numel(broadcast), 1)
    x, target = args[0], argument(args, kwargs, 1, "target")
    if target.dtype.is_floating_point:  # probabilities of the classes
        return numel(x.shape[1:2] or x.shape) / max(numel(x.shape), 1)
    weight = argument(args, kwargs, 2, "weight")
    counted = target != kwargs.get("ignore_index", -100)
    total: Tensor = counted.sum() if weight is None else weight.detach()[target[counted]].sum()
    return total.double().reciprocal()


_TENSORS: dict[Callable[..., Any], int] = {
    F.binary_cross_entropy: 3,
    F.binary_cross_entropy_with_logits: 3,
    F.cross_entropy: 3,
    F.hinge_embedding_loss: 2,
    F.huber_loss: 2,
    F.kl_div: 2,
    F.l1_loss: 2,
    F.mse_loss: 2,
    F.nll_loss: 3,
    F.poisson_nll_loss: 2,
    F.smooth_l1_loss: 2,
    F.soft_margin_loss: 2,
}

_TABLE: dict[Builder, str] = {
    partial(_add, 1.0): "add __add__ __radd__ __iadd__ add_",
    partial(_add, -1.0): "sub subtract __sub__ __isub__ sub_",
    _rsub: "rsub __rsub__",
    _neg: "neg negative __neg__ neg_",
    _mul: "mul multiply __mul__ __rmul__ __imul__ mul_",
    _div: "div divide true_divide __truediv__ __itruediv__ div_",
    partial(_total, False): "sum",
    partial(_total, True): "mean",
    _reshape: "reshape view flatten ravel squeeze unsqueeze unflatten view_as reshape_as",
    _unchanged: "clone contiguous double",
    _cast: "to type_as",
    _single: "float",
    _expand: "expand expand_as broadcast_to",
    _cat: "cat concat concatenate",
    _stack: "stack",
    _getitem: "__getitem__",
}

for _builder, _names in _TABLE.items():
    for _name in _names.split():
        for _namespace in (torch, Tensor):
            if hasattr(_namespace, _name):
                LINEAR[getattr(_namespace, _name)] = _builder
for _name in ["permute", "transpose", "swapaxes", "movedim", "t", "select", "narrow", "flip"]:
    for _namespace in (torch, Tensor):
        if hasattr(_namespace, _name):
            _function = getattr(_namespace, _name)
            LINEAR[_function] = partial(_rearranged, _function)
for _name in "T mT".split():
    _function = getattr(Tensor, _name).__get__
    LINEAR[_function] = partial(_rearranged, _function)
for _loss_function in _TENSORS:
    LINEAR[_loss_function] = partial(_loss, _loss_function)
