"""Stack machine: the values on the stack of a function that runs, as far as they can be told.

Instructions are run a second time beside the function, on numbers, texts and sizes alone, so that
no code of anybody else runs twice: attributes are looked up without descriptors, and of calls only
those of numbers are made.
"""

import dis
import inspect
import math
import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ancestral.provenance.dispatch.bytecode import Instruction


class Slot(NamedTuple):
    """A value on the stack: what it is, or the name it has, and whether it comes of the read."""

    value: Any
    is_read: bool = False


class Name(NamedTuple):
    """A variable, or an attribute of a value: looked up when it is needed."""

    name: str
    owner: Slot | None = None  # None for a variable


UnknownError = LookupError
"""It cannot be told what the code does."""
ComputedError = ArithmeticError
"""The code raises because of what was read."""


_UNKNOWN: Any = object()
_NOTHING = Slot(_UNKNOWN)
_NULL: Any = object()
"""The other slot of a function that is no method."""


class StackMachine:
    """The stack of a frame from some instruction on; what is below is not known."""

    def __init__(self, frame: FrameType) -> None:
        """Begin with nothing known."""
        self._frame = frame
        self.slots: list[Slot] = []

    @property
    def has_read(self) -> bool:
        """Whether anything on the stack comes of the read."""
        return any(slot.is_read for slot in self.slots)

    def push(self, value: Any, *, is_read: bool = False) -> None:
        """Put a value on the stack."""
        self.slots.append(Slot(value, is_read))

    def pop(self, count: int = 1) -> list[Slot]:
        """Take values from the stack, the deepest first."""
        return [self.slots.pop() if self.slots else _NOTHING for _ in range(count)][::-1]

    def called(self, each: Instruction) -> tuple[Slot, list[Slot]]:
        """Take a call from the stack: what is called, and its arguments."""
        given = self.pop(each.arg or 0)
        first, second = self.pop(2)
        is_first = second.value is _NULL or first.value is not _NULL
        return (first if is_first else second), given

    def run(self, each: Instruction) -> None:
        """Run an instruction.

        Raises:
            UnknownError: if it is not one of those that conditions are made of.
        """
        if each.opname in _STEPS:
            _STEPS[each.opname](self, each)
        elif each.opname not in _NO_EFFECT:
            raise UnknownError

    def run_unread(self, each: Instruction) -> None:
        """Run any instruction; its results are not known, unless it is one of those."""
        try:
            self.run(each)
        except UnknownError:
            # It takes no less from the stack than that loses.
            net = dis.stack_effect(each.opcode, each.arg)
            self.pop(1 - net if net <= 0 else 1)
            self.slots.extend([_NOTHING] * (1 if net <= 0 else net + 1))

    def truth(self, slot: Slot) -> bool:
        """Return whether a value is true.

        Raises:
            UnknownError: if that is not known.
        """
        value = self.value(slot)
        if not _is_plain(value):
            raise UnknownError
        return bool(value)

    def value(self, slot: Slot) -> Any:
        """Return what a value is.

        Raises:
            UnknownError: if that is not known without running code of somebody else.
        """
        value = slot.value
        if isinstance(value, Name):
            value = self._variable(value.name) if value.owner is None else self._attribute(value)
        if value is _UNKNOWN:
            raise UnknownError
        return value

    def _variable(self, name: str) -> Any:
        frame = self._frame
        for names in (frame.f_locals, frame.f_globals, frame.f_builtins):
            if name in names:
                return names[name]
        return _UNKNOWN

    def _attribute(self, found: Name) -> Any:
        assert found.owner is not None
        owner = self.value(found.owner)
        if isinstance(owner, ModuleType):
            return vars(owner).get(found.name, _UNKNOWN)
        if isinstance(owner, Tensor):
            return tuple(owner.shape) if found.name == "shape" else _UNKNOWN
        kind: Any = type(owner)
        if kind.__getattribute__ is not object.__getattribute__:
            return _UNKNOWN
        value = inspect.getattr_static(owner, found.name, _UNKNOWN)
        return value if _is_plain(value) else _UNKNOWN

    def is_of_math(self, slot: Slot) -> bool:
        """Return whether a value is a function of `math`, which takes tensors for numbers."""
        with suppress(UnknownError):
            value = self.value(slot)
            return any(value is known for known in _MATH)
        return False

    def compute(self, function: Callable[..., Any], slots: Sequence[Slot]) -> None:
        """Put on the stack what a function of Python makes of plain values.

        Raises:
            ComputedError: if it raises because of what was read.
        """
        is_read = any(slot.is_read for slot in slots)
        value: Any = _UNKNOWN
        with suppress(UnknownError):
            given = [self.value(slot) for slot in slots]
            if all(map(_is_plain, given)):
                try:
                    value = function(*given)
                except (TypeError, ValueError, ArithmeticError, LookupError) as error:
                    raise (ComputedError if is_read else UnknownError) from error
        self.push(value, is_read=is_read)

    def call(self, each: Instruction) -> None:
        """Call a function: one of numbers, or one that tells a size, is known."""
        callee, given = self.called(each)
        name = callee.value
        if isinstance(name, Name) and name.owner is not None and name.name in _SIZES:
            self._measure(name.name, name.owner, given)
            return
        function: Any = None
        with suppress(UnknownError):
            function = self.value(callee)
        if function is len and len(given) == 1:
            self._measure("__len__", given[0], [])
        elif any(function is known for known in _PURE):
            self.compute(function, given)
        else:
            self.push(_UNKNOWN, is_read=any(slot.is_read for slot in (callee, *given)))

    def _measure(self, name: str, owner: Slot, given: Sequence[Slot]) -> None:
        """Put on the stack what a method of a tensor or a list tells of its size."""
        try:
            of = self.value(owner)
        except UnknownError:
            of = None
        if isinstance(of, Tensor) or type(of) in _CONTAINERS:
            self.compute(lambda *args: getattr(of, name)(*args), given)
        else:
            self.push(_UNKNOWN, is_read=owner.is_read)


def _is_plain(value: Any) -> bool:
    """Return whether a value is of Python alone, so that no code of others runs with it."""
    if type(value) in _CONTAINERS:
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, complex, str)


_Step = Callable[[StackMachine, Instruction], None]


def _load_name(machine: StackMachine, each: Instruction) -> None:
    if each.opname == "LOAD_GLOBAL" and (each.arg or 0) & 1:
        machine.push(_NULL)
    machine.push(Name(each.argval))


def _load_attribute(machine: StackMachine, each: Instruction) -> None:
    (owner,) = machine.pop()
    machine.push(Name(each.argval, owner), is_read=owner.is_read)
    if each.opname == "LOAD_METHOD" or "NULL|self" in each.argrepr:
        machine.slots.append(owner)


def _copy(machine: StackMachine, each: Instruction) -> None:
    found = machine.pop(each.arg or 1)
    machine.slots.extend([*found, found[0]])


def _swap(machine: StackMachine, each: Instruction) -> None:
    first, *rest, last = machine.pop(each.arg or 2)
    machine.slots.extend([last, *rest, first])


def _compare(machine: StackMachine, each: Instruction) -> None:
    machine.compute(_COMPARISONS[each.argrepr], machine.pop(2))


def _contains(machine: StackMachine, each: Instruction) -> None:
    is_inverted = bool(each.arg)
    machine.compute(lambda x, many: (x in many) is not is_inverted, machine.pop(2))


def _is(machine: StackMachine, each: Instruction) -> None:
    is_inverted = bool(each.arg)
    machine.compute(lambda x, y: (x is y) is not is_inverted, machine.pop(2))


def _binary(machine: StackMachine, each: Instruction) -> None:
    machine.compute(_BINARY.get(each.argrepr, lambda x, y: _UNKNOWN), machine.pop(2))


def _computing(function: Callable[..., Any], count: int) -> _Step:
    return lambda machine, each: machine.compute(function, machine.pop(count))


_SIZES = ("size", "dim", "numel")
_CONTAINERS = (tuple, list, set, frozenset, torch.Size, range)
_MATH = tuple(each for each in vars(math).values() if inspect.isbuiltin(each))
_PURE: tuple[Any, ...] = (abs, round, int, float, bool, min, max, sum, any, all, *_MATH)
_NO_EFFECT = frozenset({"NOP", "RESUME", "PRECALL", "CACHE", "EXTENDED_ARG"})
_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}
_LOADS = "LOAD_FAST LOAD_FAST_CHECK LOAD_GLOBAL LOAD_NAME LOAD_DEREF".split()
_STEPS: dict[str, _Step] = {
    **dict.fromkeys(_LOADS, _load_name),
    "LOAD_CONST": lambda machine, each: machine.push(each.argval),
    "PUSH_NULL": lambda machine, each: machine.push(_NULL),
    "LOAD_ATTR": _load_attribute,
    "LOAD_METHOD": _load_attribute,
    "POP_TOP": lambda machine, each: machine.slots.__delitem__(slice(-1, None)),
    "COPY": _copy,
    "SWAP": _swap,
    "COMPARE_OP": _compare,
    "CONTAINS_OP": _contains,
    "IS_OP": _is,
    "BINARY_OP": _binary,
    "BINARY_SUBSCR": _computing(operator.getitem, 2),
    "UNARY_NOT": _computing(operator.not_, 1),
    "UNARY_NEGATIVE": _computing(operator.neg, 1),
    "CALL": StackMachine.call,
}
