"""Rows of linear ops: in which operands an op is linear, and the call that is kept of it.

>>> affine = Row("input + mat1 * mat2")  # linear in the first, and in one of the two factors
>>> [[names for _, names in term] for term in affine.places]
[[('input',)], [('mat1',), ('mat2',)]]
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, SupportsFloat

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.linear.transpose import transposed
from ancestral.provenance.tensor.arguments import Args, Kwargs, argument
from ancestral.provenance.tensor.linear_form import Adjoint, Call, Hole, Operand, version_of
from ancestral.provenance.tensor.tensor import NO_KEYWORDS, TYPES, ProvenanceTensor, provenance, run
from ancestral.provenance.tensor.torch_internals import read_device

Linear = tuple[Adjoint, tuple[Operand, ...], Call]
Builder = Callable[[Callable[..., Any], Shape, Args, Kwargs], Linear | None]
_Places = list[list[tuple[Any, Any]]]  # of each term, what holds its factors, and at which key
_Versions = tuple[tuple[Tensor, int], ...]

_FIRST = Hole(0)
EVERY, ONE = "every", "one"
"""The operands of a row whose op takes a list of tensors, or tensors one by one."""


@dataclass(frozen=True)
class Row:
    """The operands in which an op is linear, all others being constants.

    `operands` is a sum of products of the names of arguments, in the order of their positions; of
    each product, one factor may be tracked. Constants are in brackets, other names of an argument
    behind a bar. `condition` looks at the arguments. `adjoint` makes the adjoint where it is not
    left to autograd, and `call` the call that is kept where the other arguments only tell a shape
    or a type. `is_static` says that all of this follows from the shapes, the type of the result and
    the other arguments alone, where these are numbers and none has a keyword.
    """

    operands: str = "input"
    condition: Callable[[Args, Kwargs], bool] | None = None
    adjoint: Callable[[Shape, tuple[Operand, ...], Call], Adjoint] | None = None
    call: Callable[[Shape], Call] | None = None
    is_static: bool = False

    @cached_property
    def places(self) -> list[list[tuple[int, tuple[str, ...]]]]:
        """The position and the names of each factor of each term."""
        terms: list[list[tuple[int, tuple[str, ...]]]] = []
        for position, (sign, names) in enumerate(re.findall(r"([+*[]?) ?([\w|]+)", self.operands)):
            place = (position, tuple(names.split("|")))
            if sign == "*":
                terms[-1].append(place)
            elif sign != "[":
                terms.append([place])
        return terms

    @cached_property
    def most(self) -> int:
        """How many positional arguments an op of several operands takes."""
        names = len(re.findall(r"[\w|]+", self.operands))
        return names if names > 1 else 99

    def __call__(
        self, function: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs
    ) -> Linear | None:
        """Return the adjoint of a call, its operands, and the call, None if it is not linear."""
        if self.condition is not None and not self.condition(args, kwargs):
            return None
        built = self._built(function, shape, args, kwargs)
        if built is None:
            return None
        operands, call = built
        if self.adjoint is not None:
            return self.adjoint(shape, operands, call), operands, call
        device = device_of((*operands, *(held for held, _ in call.versions)))
        shapes = [shape_of(x) for x in operands]
        return partial(transposed, call, shapes, device), operands, call

    def _built(
        self, function: Callable[..., Any], shape: Shape, args: Args, kwargs: Kwargs
    ) -> tuple[tuple[Operand, ...], Call] | None:
        """Return the operands, and the call with holes for them."""
        if self.call is not None:
            return (first(args, kwargs),), self.call(shape)
        if kwargs.get("out") is not None:
            return None
        if self.operands == "input" and args:  # the most frequent, written out for speed
            rest = args[1:]
            held = versions_in((*rest, *kwargs.values()) if kwargs else rest)
            call = None if held is None else Call(function, (_FIRST, *rest), dict(kwargs), held)
            return None if call is None else ((args[0],), call)
        given, named = list(args), dict(kwargs) if kwargs else NO_KEYWORDS
        is_listed = self.operands in (EVERY, ONE)
        operands: list[Operand] = []
        for term in self._listed(given, named) if is_listed else self._found(given, named):
            tracked = [(holder, key) for holder, key in term if is_tracked(holder[key])]
            values = tracked or [pair for pair in term if _is_value(*pair)]
            holder, key = values[0] if values else (None, 0)
            if holder is None:
                return None
            operands.append(holder[key])
            holder[key] = Hole(len(operands) - 1)
        versions = versions_in((*given, *named.values()))
        if versions is None:
            return None
        return tuple(operands), Call(function, tuple(given), named, versions)

    def _found(self, args: list[Any], kwargs: dict[str, Any]) -> _Places:
        """Return where the operands stand that are given."""
        if len(args) > self.most:
            return [[]]  # an overload of another order
        terms: _Places = []
        for places in self.places:
            term: list[tuple[Any, Any]] = []
            for position, names in places:
                holder: Any = args if len(args) > position else None
                key: Any = position
                for name in names if kwargs else ():
                    if name in kwargs:
                        holder, key = kwargs, name
                if holder is not None and holder[key] is not None:
                    term.append((holder, key))
            if term or not terms:
                terms.append(term)
        return terms

    def _listed(self, args: list[Any], kwargs: dict[str, Any]) -> _Places:
        """Return where the operands stand: in a list, or one by one, after a text or not."""
        begin = int(bool(args) and isinstance(args[0], str))
        holder: Any = kwargs if "tensors" in kwargs else args
        key: Any = "tensors" if "tensors" in kwargs else begin
        if isinstance(holder[key], (list, tuple)):
            holder[key] = list(holder[key])
            holder, begin = holder[key], 0
        places = [(holder, number) for number in range(begin, len(holder))]
        return [places] if self.operands == ONE else [[place] for place in places]


def first(args: Args, kwargs: Kwargs) -> Any:
    """Return the first operand, which may be given by name."""
    return args[0] if args else argument(args, kwargs, 0, "input", "self", "tensor")


def _is_value(holder: Any, key: Any) -> bool:
    """Return whether an argument is a tensor or one number."""
    value = holder[key]
    if isinstance(value, (Tensor, int, float)):
        return True
    return isinstance(value, SupportsFloat) and getattr(value, "shape", None) == ()


def is_number(value: object) -> bool:
    """Return whether `value` is a real number of Python."""
    return isinstance(value, (int, float))


def is_tracked(value: object) -> bool:
    """Return whether `value` is a tensor with provenance, or memory that has."""
    return value.__class__ is ProvenanceTensor or provenance(value) is not None


def is_floating(value: object) -> bool:
    """Return whether `value` is a tensor of real numbers that are not whole."""
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def shape_of(operand: Operand) -> tuple[int, ...]:
    """Return the shape of a tensor or a number."""
    if operand.__class__ is ProvenanceTensor:
        shape: tuple[int, ...] = operand._provenance.shape
        return shape
    return tuple(operand.shape) if isinstance(operand, Tensor) else ()


def device_of(operands: Iterable[Operand]) -> torch.device:
    """Return the device of the first tensor that has dimensions, else that of the first."""
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    decisive = next((tensor for tensor in tensors if shape_of(tensor)), tensors[0])
    device: torch.device = run(read_device, TYPES, (decisive,), NO_KEYWORDS)
    return device


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
