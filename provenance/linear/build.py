"""Construction of linear forms: tracked operands, constants, and the call that is kept.

A builder looks at the arguments of one op and says in which of them it is linear, all others being
constants: it returns the adjoint (None for `adjoints.transposed`), the operands, and the call with
holes for them (None for the op itself with its arguments).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.rules.operands import Args, Kwargs
from ancestral.provenance.tensor.linear_form import Adjoint, Call, Hole, Operand, version_of
from ancestral.provenance.tensor.tensor import NO_KEYWORDS, TYPES, ProvenanceTensor, provenance, run
from ancestral.provenance.tensor.torch_internals import read_device

Linear = tuple[Adjoint | None, tuple[Operand, ...], Call | None]
Builder = Callable[[Shape, Args, Kwargs], Linear | None]
Table = dict[Callable[..., Any], Builder]

FIRST, SECOND = Hole(0), Hole(1)
_ALONE = (FIRST,)
_Versions = tuple[tuple[Tensor, int], ...]


def is_number(value: object) -> bool:
    """Return whether `value` is a real number of Python."""
    return isinstance(value, (int, float))


def is_tracked(value: object) -> bool:
    """Return whether `value` is a tensor with provenance, or memory that has."""
    return value.__class__ is ProvenanceTensor or provenance(value) is not None


def is_constant(value: object) -> bool:
    """Return whether `value` is a number, or a tensor that depends on no source."""
    return (isinstance(value, Tensor) and not is_tracked(value)) or is_number(value)


def is_floating(value: object) -> bool:
    """Return whether `value` is a tensor of real numbers that are not whole."""
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def shape_of(operand: Operand) -> tuple[int, ...]:
    """Return the shape of a tensor or a number."""
    if operand.__class__ is ProvenanceTensor:
        shape: tuple[int, ...] = operand._provenance.shape
        return shape
    return tuple(operand.shape) if isinstance(operand, Tensor) else ()


def device_of(operands: Sequence[Operand]) -> torch.device:
    """Return the device of the first operand that is a tensor."""
    for operand in operands:
        if isinstance(operand, Tensor):
            break
    device: torch.device = run(read_device, TYPES, (operand,), NO_KEYWORDS)
    return device


def constant_call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call:
    """Return a call of which no argument is tracked."""
    return Call(function, args, kwargs, versions_in((*args, *kwargs.values())) or ())


def call_of(
    function: Callable[..., Any], args: Args, kwargs: Kwargs, operands: Sequence[Operand]
) -> Call | None:
    """Return an op as it was called, None where it would hold on to something tracked."""
    if len(operands) == 1 and args[0] is operands[0]:
        if len(args) == 1 and not kwargs:
            return Call(function, _ALONE, NO_KEYWORDS, ())
        args = (FIRST, *args[1:])
    else:
        places = {id(operand): Hole(number) for number, operand in enumerate(operands)}
        args = _with_holes(args, places)
        if kwargs:
            kwargs = {name: _with_holes(value, places) for name, value in kwargs.items()}
    versions = versions_in((*args, *kwargs.values()) if kwargs else args)
    return None if versions is None else Call(function, tuple(args), dict(kwargs), versions)


def _with_holes(value: Any, places: dict[int, Hole]) -> Any:
    if isinstance(value, Tensor):
        return places.get(id(value), value)
    if type(value) in (tuple, list):
        return type(value)([_with_holes(item, places) for item in value])
    return value


_ATOMS = frozenset({int, float, bool, str, type(None), type(Ellipsis), slice, Hole, torch.dtype})


def versions_in(values: Iterable[Any]) -> _Versions | None:
    """Return the constants among some arguments with their versions, None if one is tracked."""
    found: _Versions = ()
    for value in values:
        if value.__class__ in _ATOMS:
            continue
        if isinstance(value, Tensor):
            if is_tracked(value):
                return None
            found += ((value, version_of(value)),)
        elif type(value) in (tuple, list):
            inner = versions_in(value)
            if inner is None:
                return None
            found += inner
    return found


def every(names: str, builder: Builder, *namespaces: Any) -> Table:
    """Return a table that gives functions of these names, wherever they are found, one builder."""
    return {
        getattr(namespace, name): builder
        for name in names.split()
        for namespace in namespaces or (torch, Tensor)
        if callable(getattr(namespace, name, None))
    }
