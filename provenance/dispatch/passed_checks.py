"""Checks: reads of a value whose only other outcome is an exception.

``assert ok``, ``if bad: raise ValueError``: as long as the check passes, the program goes on as if
it had not looked. That is read from the bytecode of the function that reads: what was read must
reach nothing but jumps, of which one side raises whatever happens, before any of it is kept, and no
``except`` around it may catch the error. The condition is computed along, for it must be known
whether this run passes. What cannot be told is no check.
"""

from collections.abc import Callable
from types import FrameType
from typing import Any, Literal, NamedTuple

import torch

from ancestral.provenance.dispatch.bytecode import Code, code_of, is_jump, is_tried
from ancestral.provenance.dispatch.stack_machine import (
    ComputedError,
    Name,
    Slot,
    StackMachine,
    UnknownError,
)
from ancestral.provenance.tensor.control_flow import Began

Outcome = Literal["passes", "raises"]


class Read(NamedTuple):
    """A function of torch that gave a value away, and what it gave, or the error that it raised."""

    function: Callable[..., Any]
    result: object

    @property
    def name(self) -> str:
        """The name of the function."""
        return str(self.function.__name__)


def outcome_of(read: Read, frame: FrameType, began: Began | None) -> Outcome | None:
    """Return what becomes of a check of a value, None if that is no check.

    Args:
        read: what is read.
        frame: the one that reads, at this very moment.
        began: where the recording began, None where it has ended.
    """
    if not is_tried() or _is_caught(frame, began):
        return None
    has_raised = isinstance(read.result, Exception)
    if read.name in ("_assert", "_assert_async"):
        return "raises" if has_raised else "passes"
    # Whether it is a check is the same for all values, also for those that no number comes of.
    given = read._replace(result=0) if has_raised else read
    try:
        found = _Run(frame, began).outcome(given)
    except UnknownError:
        return None
    except ComputedError:
        return "raises"
    return "raises" if has_raised else found


def _is_caught(frame: FrameType, began: Began | None) -> bool:
    """Return whether a caller catches errors where it is now, within the block of the recording.

    An error that leaves the block leaves no loss of it to be differentiated.
    """
    at: FrameType | None = frame
    while at is not None:
        code = _code_of(at, began)
        if at.f_code.co_name in _PROTOCOLS or not code.lets_out(code.number(at.f_lasti)):
            return True
        if began is None or id(at) == began.frame:
            return False
        at = at.f_back
    return False


def _code_of(frame: FrameType, began: Began | None) -> Code:
    is_first = began is not None and id(frame) == began.frame
    return code_of(frame.f_code, began.offset if began is not None and is_first else None)


class _Run:
    """The run of a condition from a read to the jumps that it decides."""

    def __init__(self, frame: FrameType, began: Began | None) -> None:
        self._code: Code = _code_of(frame, began)
        self._at = self._code.number(frame.f_lasti)
        self._machine = StackMachine(frame)

    def outcome(self, read: Read) -> Outcome:
        """Return whether the check passes.

        Raises:
            UnknownError: if it is none.
        """
        self._read(read)
        has_decided = False
        while self._machine.has_read:
            if not is_jump(self._code.instructions[self._at]):
                self._advance()
                continue
            taken, other, is_decided = self._jump()
            if is_decided:
                has_decided = True
                if self._code.raises(taken):
                    return "raises"
                if not self._code.raises(other):
                    return self._through(taken, other)
            self._at = taken
        if not has_decided:  # it is put aside
            raise UnknownError
        return "passes"

    def _advance(self) -> None:
        self._machine.run(self._code.instructions[self._at])
        self._at += 1

    def _through(self, taken: int, other: int) -> Outcome:
        """Return the outcome where one way of a jump goes to the other, or raises before.

        Of what happens on it all must be known, also where it is not taken: whether a read is a
        check must not depend on what was read.
        """
        if self._machine.has_read:
            raise UnknownError
        code = self._code
        ways = ((taken, other), (other, taken))
        way = next((way for way in ways if code.only_raises_before(*way)), None)
        if way is None:
            raise UnknownError
        self._at, end = way
        while self._at != end:
            if code.raises(self._at):
                return "raises" if way[0] == taken else "passes"
            if is_jump(code.instructions[self._at]):
                self._at, _, _ = self._jump()
            else:
                self._advance()
        return "passes"

    def _jump(self) -> tuple[int, int, bool]:
        """Take a jump; return where it goes, where it does not, and whether by what was read."""
        name, there = self._code.instructions[self._at].opname, self._code.target(self._at)
        if name == "JUMP_FORWARD":
            return there, there, False
        if "IF" not in name:
            raise UnknownError
        (slot,) = self._machine.pop()
        if name.endswith("NONE"):
            is_taken = (self._machine.value(slot) is None) is not name.endswith("NOT_NONE")
        else:
            is_taken = self._machine.truth(slot) is ("IF_TRUE" in name)
        if name.endswith("OR_POP"):  # of which one way keeps the value
            raise UnknownError
        ways = (there, self._at + 1) if is_taken else (self._at + 1, there)
        return *ways, slot.is_read

    def _read(self, read: Read) -> None:
        """Go to where the value was read: it is on the stack from there on."""
        machine, each = self._machine, self._code.instructions[self._at]
        result = read.result
        if read.name == "__bool__" and (is_jump(each) or each.opname == "UNARY_NOT"):
            machine.push(result, is_read=True)  # of which the instruction takes the truth again
            return
        for before in self._code.block(self._at):
            machine.run_unread(self._code.instructions[before])
        if each.opname == "PRECALL":
            self._at += 1
            each = self._code.instructions[self._at]
        if each.opname == "CALL":
            callee, given = machine.called(each)
            if read.name == "__float__" and len(given) == 1 and machine.is_of_math(callee):
                machine.compute(machine.value(callee), [Slot(result, is_read=True)])
                self._at += 1
                return
            if not self._is_reading(callee, read.name, len(given)):
                raise UnknownError
        elif each.opname == "CONTAINS_OP" and read.name == "__contains__":
            machine.pop(2)
            result = bool(result) is not bool(each.arg)
        else:
            raise UnknownError
        machine.push(result, is_read=True)
        self._at += 1

    def _is_reading(self, callee: Slot, function: str, count: int) -> bool:
        """Return whether what is called is the function of torch itself, or a type of Python."""
        if isinstance(callee.value, Name) and callee.value.owner is not None:
            return callee.value.name == function
        try:
            kind = self._machine.value(callee)
        except UnknownError:
            return False
        is_type = any(kind is each for each in (bool, int, float, complex))
        if is_type:
            return function == f"__{kind.__name__}__" and count == 1
        return kind is getattr(torch, function, None)


# Whose errors Python itself may take for the end of something, or for nothing being there.
_PROTOCOLS = frozenset(
    "__next__ __anext__ __getitem__ __getattr__ __missing__ __length_hint__ __del__".split()
)
