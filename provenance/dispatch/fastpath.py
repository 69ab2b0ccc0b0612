"""Fast path: the most frequent ops, followed without torch's own dispatch.

Torch's way to `__torch_function__` costs more than an addition and all that we do about it. So the
operators and some methods are defined on the class, in Python, and call the op in C at once.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment_loss import joined
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.dispatch.error_leaks import refuse_inference
from ancestral.provenance.dispatch.linear_forms import form_again, form_of
from ancestral.provenance.dispatch.propagate import recalled
from ancestral.provenance.dispatch.subclasses import names_of
from ancestral.provenance.linear.operator_forms import PLAIN, Linear, scaling, summing
from ancestral.provenance.linear.transpose import (
    both,
    difference,
    divided,
    negative,
    scaled,
)
from ancestral.provenance.rules.pointwise import is_rounded, pointwise
from ancestral.provenance.rules.registry import KINKS, LINEAR, RULES
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.control_flow import lasting, now
from ancestral.provenance.tensor.linear_form import Adjoint, Form, serials
from ancestral.provenance.tensor.tensor import NO_KEYWORDS, TYPES, ProvenanceTensor, attach, run
from ancestral.provenance.tensor.torch_internals import (
    is_torch_function_enabled,
    len_torch_function_stack,
)

# Within a function that runs with tracking off, the operators must not follow either: they see a
# part of what it does only.
_is_tracking: Callable[[], bool] = is_torch_function_enabled
_Function = Callable[..., Any]
_Plain: Any = Tensor
FAST = frozenset({ProvenanceTensor, *PLAIN, float, int})
# Python asks the class that inherits first, even if its object stands on the right. What is saved
# for a backward pass keeps its order, by which a checkpoint finds it again: what was tracked at
# first, since Python had read something, may be plain when the checkpoint runs again.
_TURNED = {
    "__radd__": "__add__",
    "__rmul__": "__mul__",
    "__rsub__": "__sub__",
    "__rtruediv__": "__truediv__",
}


def _operator(
    name: str,
    linear: Linear | None,
    equal: Adjoint | None = None,
    is_kink: bool = False,
    space: Any = Tensor,
) -> _Function:
    """Return a binary operator that follows provenance without torch's dispatch.

    `linear` makes the form of the result; `equal` is the adjoint for two tensors of one shape, the
    most frequent case, which is written out here for speed. `is_kink` says that the operator
    compares.
    """
    plain_operator, mixed_as = getattr(space, name), name.strip("_")
    is_tracking, types, fast, boolean, plain = _is_tracking, TYPES, FAST, torch.bool, _Plain
    number, is_linear = serials.__next__, linear is not None
    tracked, has_history = ProvenanceTensor, torch.is_grad_enabled
    turned: Any = getattr(Tensor, _TURNED.get(name, ""), None)

    def operator(self: ProvenanceTensor, other: Any) -> Any:
        kind = type(other)
        if kind is not tracked and kind not in fast:
            return plain_operator(self, other)
        try:
            result: Any = (
                run(plain_operator, types, (self, other), NO_KEYWORDS)
                if turned is None or kind is not plain
                else run(turned, types, (other, self), NO_KEYWORDS)
            )
        except RuntimeError as error:
            refuse_inference(error, names_of(self, other))
            raise
        if is_kink and kind in PLAIN:
            result = run(_in_rows, types, (result, self, other), NO_KEYWORDS)
        if type(result) is not plain or not is_tracking():
            return result
        ours = self._provenance
        is_equal, may_be_linear = False, is_linear
        if kind is tracked:
            theirs = other._provenance
            last = ours.last_join
            if ours is theirs:
                is_equal = True
            elif last is not None and last.made_from[1] is theirs:  # of one shape and recording
                ours, is_equal = last, True
            else:
                is_equal = ours.shape == theirs.shape
                # The form of a sum over recordings would hold on to those that are over.
                may_be_linear = is_linear and (
                    ours.universe is theirs.universe
                    or ours.universe.state == theirs.universe.state == "open"
                )
                ours = ours._memo.get(theirs) or joined(mixed_as, ours, theirs)
        elif kind in PLAIN:
            is_equal = ours.shape == other.shape
            if not is_equal and ours.shape != result.shape:
                ours = ours.broadcast(tuple(result.shape))
        if is_kink:
            ours = ours.kinked()
        if ours.universe.is_past:
            return _past(plain_operator, result, ours, (self, other))
        form: Form | None = None
        if may_be_linear and result.dtype is not boolean:  # of truth values, a sum is an or
            if not has_history():
                form = form_of(plain_operator, ours.shape, (self, other), NO_KEYWORDS)
            elif not is_equal or equal is None:
                assert linear is not None
                form = linear(self, other, kind, ours.shape)
            elif kind is tracked:
                form = (number(), equal, self._form or self, other._form or other)
            else:
                form = (number(), equal, self._form or self, other)
        result.__class__ = tracked
        if is_linear:
            result._provenance = ours
            result._form = form
        else:  # no step of a sum: a loss may keep it for long, see `compact`
            result.__dict__ = {"_provenance": ours}
        return result

    operator.__name__ = name
    return operator


def _in_rows(result: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Lay a comparison out in rows, where its operands are laid out in different ways.

    Torch takes the way of the first, and Python does not tell which one that was.
    """
    if result.layout is not torch.strided or ours.stride() == theirs.stride():
        return result
    return result.contiguous()


def _past(func: _Function, result: Tensor, ours: Provenance, args: tuple[Any, ...]) -> Tensor:
    """Give a result its provenance, of tensors of which there is more to say than theirs."""
    found = now(ours)
    if found is None:
        return result  # a constant by now
    is_sum = result.dtype is not torch.bool
    form = form_of(func, found.shape, args, NO_KEYWORDS) if is_sum else None
    attach(result, found)._form = lasting(form, found.universe)  # type: ignore[attr-defined]
    return result


_scaled, _divided = scaling(scaled), scaling(divided)
_OPERATORS: dict[str, tuple[Linear | None, Adjoint | None]] = {
    "__add__": (summing("+"), both),
    "__radd__": (summing("+"), both),
    "__sub__": (summing("-"), difference),
    "__rsub__": (summing("r-"), None),
    "__mul__": (_scaled, None),
    "__rmul__": (_scaled, None),
    "__truediv__": (_divided, None),
}
_COMPARISONS = "__eq__ __ne__ __lt__ __le__ __gt__ __ge__"


def run_elementwise(func: _Function, args: tuple[Any, ...]) -> Any:
    """Run an elementwise function of tensors and numbers; None where the arguments are neither."""
    found: Provenance | None = None
    for argument in args:
        kind = type(argument)
        if kind is ProvenanceTensor:
            ours = argument._provenance
            if found is None:
                found = ours
            elif found is not ours:
                found = found._memo.get(ours) or joined(func.__name__, found, ours)
        elif kind not in FAST:
            return None
    result: Any = run(func, TYPES, args, NO_KEYWORDS)
    if found is None or result.__class__ is not _Plain:
        return result
    if found.shape != result.shape:
        found = found.broadcast(tuple(result.shape))
    if found.universe.is_past:
        return _past(func, result, found, args)
    result.__class__ = ProvenanceTensor
    result.__dict__ = {"_provenance": found}
    linear = _LINEAR_FUNCTIONS.get(func)
    is_of_tensor = len(args) == 2 and type(args[0]) is ProvenanceTensor
    if linear is not None and is_of_tensor and result.dtype is not torch.bool:
        if torch.is_grad_enabled():
            result._form = linear(args[0], args[1], type(args[1]), found.shape)
        else:
            result._form = form_of(func, found.shape, args, NO_KEYWORDS)
    return result


def _function(name: str) -> _Function:
    """Return an elementwise method of one tensor that follows provenance without dispatch."""
    plain_method = getattr(Tensor, name)
    is_linear = "neg" in name

    def method(self: ProvenanceTensor) -> Any:
        result: Any = run(plain_method, TYPES, (self,), NO_KEYWORDS)
        if result.__class__ is not _Plain or not _is_tracking():
            return result
        if self._provenance.universe.is_past:
            return _past(plain_method, result, self._provenance, (self,))
        result.__class__ = ProvenanceTensor
        result.__dict__ = {"_provenance": self._provenance}
        if is_linear and torch.is_grad_enabled():
            result._form = (next(serials), negative, self._form or self)
        elif is_linear:
            result._form = form_of(plain_method, self._provenance.shape, (self,), NO_KEYWORDS)
        return result

    method.__name__ = name
    return method


def _reducing(name: str) -> _Function:
    """Return a method that takes numbers, followed without dispatch where it was followed before.

    The answer is found under the key that `propagate` keeps it under, or else by that.
    """
    plain_method = getattr(Tensor, name)
    number, has_history, is_overridden = serials.__next__, torch.is_grad_enabled, _is_overridden

    def method(self: ProvenanceTensor, *args: Any, **kwargs: Any) -> Any:
        ours = self._provenance
        if kwargs or ours.universe.is_past or storage.table or is_overridden():
            return plain_method(self, *args, **kwargs)
        for item in args:
            if item.__class__ is not int:
                return plain_method(self, *args)
        try:
            result: Any = run(plain_method, TYPES, (self, *args), NO_KEYWORDS)
        except Exception:  # to be raised once more, and noted
            return plain_method(self, *args)
        if result.__class__ is not _Plain or not _is_tracking():
            return plain_method(self, *args)
        outline = ours.outline or ours.pattern
        key = (plain_method, result.shape, result.dtype, outline, *args)
        answer = outline.known.get(key if ours.outline else (*key, outline))
        if answer is None:
            return plain_method(self, *args)
        found = ours if answer.is_same else ours._memo.get(answer) or recalled(answer, ours)
        result.__class__ = ProvenanceTensor
        result._provenance = found
        if answer.linear is not None and has_history():
            result._form = (number(), answer.linear, self._form or self)
        else:
            result._form = form_again(answer, plain_method, found.shape, (self, *args), NO_KEYWORDS)
        return result

    method.__name__ = name
    return method


def _powered(self: ProvenanceTensor, *args: Any, **kwargs: Any) -> Any:
    """Raise to a power that is a number without dispatch."""
    if len(args) == 1 and not kwargs and args[0].__class__ in _NUMBERS:
        return _power(self, args[0])
    return Tensor.pow(self, *args, **kwargs)


_is_overridden: Callable[[], int] = len_torch_function_stack
_power = _operator("pow", None)
_NUMBERS = frozenset({float, int})
_AS_OPERATORS = {
    "add": "__add__",
    "sub": "__sub__",
    "mul": "__mul__",
    "div": "__truediv__",
    "true_divide": "__truediv__",
}
_LINEAR_FUNCTIONS: dict[_Function, Linear] = {
    getattr(space, name): linear
    for name, operator in _AS_OPERATORS.items()
    for space in (torch, Tensor)
    if (linear := _OPERATORS[operator][0]) is not None
}
OPERATORS = {
    getattr(space, name): _operator(name, *_OPERATORS[operator], space=space)
    for name, operator in _AS_OPERATORS.items()
    for space in (torch, Tensor)
}
"""By a function that an operator is short for, how it is followed if its first operand is tracked
and the second is of `FAST`."""
ELEMENTWISE = frozenset(
    function
    for function, rule in RULES.items()
    if rule is pointwise
    and (function not in LINEAR or function in _LINEAR_FUNCTIONS)
    and KINKS.get(function) in (None, is_rounded)  # by a keyword
    and not function.__name__.endswith("_")
    and getattr(function, "__module__", None) != "torch.nn.functional"
    and function.__name__ not in ("expand", "repeat", "tile", "narrow")
)
"""The elementwise functions that write nothing and give back their own tensor: `run_elementwise`
may be asked to run them."""
_FUNCTIONS = "__neg__ neg exp log log1p expm1 sqrt tanh sigmoid relu sin cos square".split()


def _attribute(name: str) -> property:
    """Return an attribute that is read without torch's dispatch."""
    plain_attribute = getattr(Tensor, name)
    read, write = plain_attribute.__get__, plain_attribute.__set__

    def get(self: ProvenanceTensor) -> Any:
        return run(read, TYPES, (self,), NO_KEYWORDS)

    def put(self: ProvenanceTensor, value: Any) -> None:
        run(write, TYPES, (self, value), NO_KEYWORDS)

    return property(get, put)


def _metadata(name: str) -> _Function:
    """Return a method that tells of no value, and is run without torch's dispatch."""
    plain_method = getattr(Tensor, name)

    def method(self: ProvenanceTensor, *args: Any, **kwargs: Any) -> Any:
        return run(plain_method, TYPES, (self, *args), kwargs)

    method.__name__ = name
    return method


for _name, (_linear, _equal) in _OPERATORS.items():
    setattr(ProvenanceTensor, _name, _operator(_name, _linear, _equal))
for _name in ["__rtruediv__", "__pow__"]:
    setattr(ProvenanceTensor, _name, _operator(_name, None))
for _name in _COMPARISONS.split():
    setattr(ProvenanceTensor, _name, _operator(_name, None, is_kink=True))
for _name in ["mean", "sum"]:
    setattr(ProvenanceTensor, _name, _reducing(_name))
ProvenanceTensor.pow = _powered  # type: ignore[assignment]
for _name in _FUNCTIONS:
    setattr(ProvenanceTensor, _name, _function(_name))
for _name in ["shape", "dtype", "device", "ndim", "requires_grad", "is_leaf"]:
    setattr(ProvenanceTensor, _name, _attribute(_name))
for _name in ["size", "dim", "numel"]:
    setattr(ProvenanceTensor, _name, _metadata(_name))
# A class that defines __eq__ loses its hash: tensors are hashed by identity.
ProvenanceTensor.__hash__ = Tensor.__hash__  # type: ignore[method-assign]
