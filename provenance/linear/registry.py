"""Registry of linear forms: the form that the result of an op gets, so that a loss can be undone.

`LINEAR` is the table of the ops that are linear, gathered from the modules of their families.
Everything that is missing in it is one separate cost; that is always right and costs variance
only.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.linear.build import Table, call_of, device_of, shape_of
from ancestral.provenance.linear.loss import LOSSES
from ancestral.provenance.linear.moves import REARRANGEMENTS, SPLITS
from ancestral.provenance.linear.products import CONTRACTIONS
from ancestral.provenance.linear.reductions import REDUCTIONS
from ancestral.provenance.linear.sums import SUMS
from ancestral.provenance.linear.transpose import placed, transposed
from ancestral.provenance.rules.operands import Args, Kwargs, argument, positional
from ancestral.provenance.tensor import storage as watching
from ancestral.provenance.tensor.linear_form import Form, Operand, serials
from ancestral.provenance.tensor.tensor import attach, raw

LINEAR: Table = {**SUMS, **REDUCTIONS, **CONTRACTIONS, **REARRANGEMENTS, **LOSSES}


def form_of(function: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs) -> Form | None:
    """Return the form of the result of an op, or None where the op is not linear."""
    builder = LINEAR.get(function)
    if builder is None:
        return None
    if not args:
        args, kwargs = positional(args, kwargs)
    built = builder(shape, args, kwargs) if args else None
    if built is None:
        return None
    adjoint, operands, call = built
    if call is None:
        call = call_of(function, args, kwargs, operands)
        if call is None:
            return None
    if adjoint is None:
        held = call.versions[0][0] if call.versions else None
        device = held.device if held is not None and held.ndim else device_of(operands)
        adjoint = partial(transposed, call, [shape_of(x) for x in operands], device)
    made_of = resolve if torch.is_grad_enabled() else without_history
    return (next(serials), adjoint, tuple([made_of(x) for x in operands]), call, function)


def forms_of(
    function: Callable[..., Any], results: Sequence[Tensor], args: Args, kwargs: Kwargs
) -> Iterator[Form]:
    """Yield the forms of the results of an op that returns the parts of its operand."""
    args, kwargs = positional(args, kwargs)
    parts, dim_of = SPLITS[function]
    x = args[0] if args else argument(args, kwargs, 0, "self", "tensor")
    operand = resolve(x) if torch.is_grad_enabled() else without_history(x)
    shape = shape_of(x)
    for call in parts(results, x, dim_of(x, args, kwargs)):
        yield (next(serials), partial(placed, call, shape), (operand,), call, function)


def resolve(operand: Operand) -> Operand:
    """Return the form of an operand as it is now, or the operand itself as a leaf.

    What was written through another tensor on its memory leaves its form behind.
    """
    found = getattr(operand, "_provenance", None)
    if found is not None and found.universe.state == "settled":
        return raw(Tensor.detach, operand)  # a constant, that holds on to no recording
    form: Form | None = getattr(operand, "_form", None)
    return operand if form is None or _written_elsewhere(operand, form[0]) else form


when_cut: list[Callable[[], None]] = []
"""Functions that are told that the gradient of an operand was cut: a layer above this one."""


def without_history(operand: Operand) -> Operand:
    """Return an operand of a step within `torch.no_grad`: its value counts, its gradient is cut."""
    if not isinstance(operand, Tensor):
        return operand
    plain = raw(Tensor.detach, operand)
    if not raw(_requires_grad, operand):
        return resolve(operand)
    for note in when_cut:
        note()
    found = getattr(operand, "_provenance", None)
    return plain if found is None or found.universe.state == "settled" else attach(plain, found)


_requires_grad: Any = Tensor.requires_grad.__get__  # type: ignore[attr-defined]


def written_since(tensor: Tensor, serial: int) -> bool:
    """Return whether a tensor was written into after the linear form of this number was made."""
    return getattr(tensor, "_written", -1) > serial or _written_elsewhere(tensor, serial)


def _written_elsewhere(tensor: Tensor, serial: int) -> bool:
    if not watching.table:
        return False
    storage = raw(watching.storage_of, tensor)
    return storage is not None and watching.written(storage) > serial
