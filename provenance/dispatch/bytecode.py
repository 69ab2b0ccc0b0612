"""Bytecode: where the code of a function can go on from an instruction.

Read with `dis`, whose names of instructions are those of one version of Python: `is_tried` tells
whether the library knows this one's.
"""

import bisect
import dis
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import CodeType

Instruction = dis.Instruction
FIRST, LAST = (3, 11), (3, 12)
"""The first and the last version of Python whose bytecode was tried."""


def is_tried() -> bool:
    """Return whether this is an interpreter whose bytecode is known."""
    return sys.implementation.name == "cpython" and FIRST <= sys.version_info[:2] <= LAST


@dataclass(frozen=True)
class Code:
    """The instructions of a function, by their number.

    What leaves the ``with`` that ends at `left_at` after an error counts as leaving the function.
    """

    instructions: tuple[Instruction, ...]
    handlers: tuple[tuple[int, int, int], ...]  # first and last offset, and where errors go
    left_at: int | None = None
    # What was found of an instruction, or of two: a loop reads at the same ones again and again.
    _raising: dict[int, bool] = field(default_factory=dict[int, bool], compare=False)
    _letting: dict[int, bool] = field(default_factory=dict[int, bool], compare=False)
    _idle: dict[tuple[int, int], bool] = field(
        default_factory=dict[tuple[int, int], bool], compare=False
    )

    @cached_property
    def numbers(self) -> dict[int, int]:
        """The number of an instruction by its offset."""
        return {each.offset: number for number, each in enumerate(self.instructions)}

    def number(self, offset: int) -> int:
        """Return the number of the instruction at an offset, or in the cache behind it."""
        return bisect.bisect_right(self.instructions, offset, key=lambda each: each.offset) - 1

    @cached_property
    def starts(self) -> frozenset[int]:
        """The numbers of the instructions that something jumps to."""
        targets = [self.target(n) for n, each in enumerate(self.instructions) if is_jump(each)]
        return frozenset([*targets, *(self.numbers[there] for _, _, there in self.handlers)])

    def target(self, number: int) -> int:
        """Return where an instruction jumps to."""
        return self.numbers[self.instructions[number].argval]

    def block(self, number: int) -> range:
        """Return the instructions before one that are always run right before it."""
        first = number
        while first > 0 and first not in self.starts:
            before = self.instructions[first - 1]
            if is_jump(before) or _ends(before):
                break
            first -= 1
        return range(first, number)

    def next(self, number: int) -> Iterator[int]:
        """Yield where the code can go on from an instruction that raises nothing."""
        each = self.instructions[number]
        if is_jump(each):
            yield self.target(number)
        if not _ends(each) and each.opname not in _ALWAYS:
            yield number + 1

    def handler(self, number: int) -> int | None:
        """Return where the code goes on if an instruction raises, None if it is left.

        A ``with`` that keeps the error is not known as such.
        """
        there = self._innermost(number)
        if there is None or not self._is_with(there):
            return there
        if there == self.left_at:
            return None
        return self.handler(next(n for n in itertools.count(there) if self._is_reraising(n)))

    def _innermost(self, number: int) -> int | None:
        offset = self.instructions[number].offset
        # Of blocks within each other, the table has the innermost alone at an offset.
        found = next((to for first, end, to in self.handlers if first <= offset < end), None)
        return None if found is None else self.numbers[found]

    def block_at(self, offset: int) -> int | None:
        """Return where the ``with`` that begins at an offset ends after an error, None for none."""
        number = self.number(offset)
        is_with = number >= 0 and self.instructions[number].opname == "BEFORE_WITH"
        return self._innermost(number + 1) if is_with else None

    def raises(self, number: int) -> bool:
        """Return whether the code raises, whatever happens, from an instruction on.

        The end of a ``with`` may still catch the error.
        """
        if number not in self._raising:
            self._raising[number] = self._is_raising(number)
        return self._raising[number]

    def _is_raising(self, number: int) -> bool:
        pending, seen, found = [number], set[int](), False
        while pending:
            at = pending.pop()
            if at in seen:
                continue
            seen.add(at)
            each = self.instructions[at]
            if each.opname.startswith(_LEAVING) or each.argval in _OF_PROTOCOLS:
                return False
            found |= each.opname in _RAISING
            pending.extend(self.next(at))
            handler = self.handler(at)
            if handler is not None:
                pending.append(handler)
        return found

    def lets_out(self, number: int) -> bool:
        """Return whether an error of an instruction leaves the function, or the block.

        Unless it is the end of a ``with`` that keeps it.
        """
        if number not in self._letting:
            handler = self.handler(number)
            self._letting[number] = handler is None or self.raises(handler)
        return self._letting[number]

    def _is_reraising(self, number: int) -> bool:
        return self.instructions[number].opname == "RERAISE"

    def _is_with(self, handler: int) -> bool:
        names = [each.opname for each in self.instructions[handler : handler + 2]]
        return names == ["PUSH_EXC_INFO", "WITH_EXCEPT_START"]

    def only_raises_before(self, number: int, end: int) -> bool:
        """Return whether the code may raise before it reaches `end`, and does nothing else."""
        if (number, end) not in self._idle:
            self._idle[number, end] = self._is_idle_before(number, end)
        return self._idle[number, end]

    def _is_idle_before(self, number: int, end: int) -> bool:
        pending, seen = [(number, 0)], set[int]()  # with what it has put on the stack
        found = False
        while pending:
            at, depth = pending.pop()
            if at == end and depth == 0:
                continue
            each = self.instructions[at]
            is_idle = each.opname in _IDLE or (is_jump(each) and "BACKWARD" not in each.opname)
            if depth < 0 or at == end or each.argval in _OF_PROTOCOLS:
                return False
            if self.raises(at):
                found = True
                continue
            if at in seen:
                continue
            if not is_idle or "OR_POP" in each.opname:
                return False
            seen.add(at)
            effect = dis.stack_effect(each.opcode, each.arg, jump=False)
            pending.extend((there, depth + effect) for there in self.next(at))
        return found


@lru_cache(maxsize=4096)
def code_of(code: CodeType, offset: int | None = None) -> Code:
    """Return the instructions of a function, or of its block that begins at an offset."""
    if offset is not None:
        whole = code_of(code)
        return Code(whole.instructions, whole.handlers, whole.block_at(offset))
    found = dis.Bytecode(code)
    entries = getattr(found, "exception_entries", ())
    return Code(tuple(found), tuple((each.start, each.end, each.target) for each in entries))


def is_jump(each: Instruction) -> bool:
    """Return whether an instruction may go elsewhere."""
    return each.opcode in _JUMPS


def _ends(each: Instruction) -> bool:
    return each.opname.startswith("RETURN") or each.opname in _RAISING


_JUMPS = frozenset(dis.hasjrel) | frozenset(dis.hasjabs)
_ALWAYS = frozenset({"JUMP_FORWARD", "JUMP_BACKWARD", "JUMP_BACKWARD_NO_INTERRUPT"})
_RAISING = frozenset({"RAISE_VARARGS", "RERAISE"})
_LEAVING = ("RETURN", "YIELD", "SEND", "GET_AWAITABLE", "END_ASYNC_FOR", "GET_ANEXT")
# These errors are how the protocols of Python say that something is over, or not there.
_OF_PROTOCOLS = frozenset("StopIteration StopAsyncIteration GeneratorExit AttributeError".split())
_IDLE = frozenset({"LOAD_CONST", "LOAD_FAST", "LOAD_GLOBAL", "LOAD_DEREF", "NOP"})
