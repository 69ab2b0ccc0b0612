"""Linear forms: what the result of an op is made of, so that a loss can be undone.

The result of an op whose row says nothing of it is one separate cost; that is always right and
costs variance only.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.pattern import Answer
from ancestral.provenance.linear.build import first, shape_of
from ancestral.provenance.linear.transpose import placed
from ancestral.provenance.rules.registry import LINEAR
from ancestral.provenance.tensor import storage as watching
from ancestral.provenance.tensor.arguments import Args, Kwargs, argument
from ancestral.provenance.tensor.linear_form import Call, Called, Form, Hole, Operand, serials
from ancestral.provenance.tensor.tensor import NO_KEYWORDS, attach, raw
from ancestral.provenance.tensor.torch_internals import detach


def form_of(function: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs) -> Form | None:
    """Return the form of the result of an op, or None where the op is not linear."""
    builder = LINEAR.get(function)
    built = None if builder is None else builder(function, shape, args, kwargs)
    if built is None:
        return None
    adjoint, operands, call = built
    made_of = resolve if torch.is_grad_enabled() else without_history
    return (next(serials), adjoint, tuple([made_of(x) for x in operands]), call, function)


def form_again(
    answer: Answer, func: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs
) -> Form | None:
    """Return the form of the result of a call of which one of the same kind was met before."""
    kept, given = answer.linear, first(args, kwargs)
    if kept is not None and torch.is_grad_enabled():
        if isinstance(given, Tensor):
            return (next(serials), kept, resolve(given))
        return (next(serials), kept.adjoint, tuple(map(resolve, given)), kept.call, func)
    form = form_of(func, shape, args, kwargs)
    is_static = not kwargs and getattr(LINEAR[func], "is_static", False)
    if is_static and form is not None and len(form) == 5 and not form[3].versions:
        operands = (given,) if isinstance(given, Tensor) else given
        if isinstance(operands, (tuple, list)) and len(operands) == len(form[2]):
            answer.linear = Called(form[1], form[3], func)
    return form


def forms_of(
    function: Callable[..., Any], results: Sequence[Tensor], args: Args, kwargs: Kwargs
) -> Iterator[Form]:
    """Yield the forms of the results of an op that returns the parts of its operand."""
    x = first(args, kwargs)
    operand = resolve(x) if torch.is_grad_enabled() else without_history(x)
    shape = shape_of(x)
    if function.__name__ == "unbind":
        parts = _rows(len(results), argument(args, kwargs, 1, "dim", "axis", default=0))
    else:
        parts = _sections(shape, [shape_of(result) for result in results])
    for call in parts:
        yield (next(serials), partial(placed, call, shape), (operand,), call, function)


def _rows(count: int, dim: int) -> Iterator[Call]:
    for index in range(count):
        yield Call(torch.select, (Hole(0), dim, index), NO_KEYWORDS, ())


def _sections(shape: Shape, sizes: Sequence[Shape]) -> Iterator[Call]:
    """Yield how the parts of these sizes are taken, along the dimension that was cut."""
    cut = (d for d, whole in enumerate(shape) if any(size[d] != whole for size in sizes))
    dim, start = next(cut, 0), 0
    for size in sizes:
        yield Call(torch.narrow, (Hole(0), dim, start, size[dim]), NO_KEYWORDS, ())
        start += size[dim]


def resolve(operand: Operand) -> Operand:
    """Return the form of an operand as it is now, or the operand itself as a leaf.

    What was written through another tensor on its memory leaves its form behind.
    """
    found = getattr(operand, "_provenance", None)
    if found is not None and found.universe.is_past and found.universe.state == "settled":
        return raw(detach, operand)  # a constant, that holds on to no recording
    form: Form | None = getattr(operand, "_form", None)
    if form is None or (watching.table and _written_elsewhere(operand, form[0])):
        return operand
    return form


when_cut: list[Callable[[], None]] = []
"""Functions that are told that the gradient of an operand was cut: a layer above this one."""


def without_history(operand: Operand) -> Operand:
    """Return an operand of a step within `torch.no_grad`: its value counts, its gradient is cut."""
    if not isinstance(operand, Tensor):
        return operand
    plain = raw(detach, operand)
    if not raw(requires_grad, operand):
        return resolve(operand)
    for note in when_cut:
        note()
    found = getattr(operand, "_provenance", None)
    return plain if found is None or found.universe.state == "settled" else attach(plain, found)


requires_grad: Any = Tensor.requires_grad.__get__  # type: ignore[attr-defined]


def written_since(tensor: Tensor, serial: int) -> bool:
    """Return whether a tensor was written into after the linear form of this number was made."""
    is_written = getattr(tensor, "_written", -1) > serial
    return is_written or bool(watching.table and _written_elsewhere(tensor, serial))


def _written_elsewhere(tensor: Tensor, serial: int) -> bool:
    storage = raw(watching.storage_of, tensor)
    return storage is not None and watching.written(storage) > serial
