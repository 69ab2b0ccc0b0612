"""Variable: the name that the value of a call is assigned to, read from the bytecode after it.

What lays a value out anew on the way, such as ``.flatten(1)``, ``.float()`` or ``[..., None]``,
changes no name; what makes another value of it has its own.

>>> code = compile("z = draw(3).flatten(1)", "", "exec")
>>> calls = [step.offset for step in dis.get_instructions(code) if step.opname == "CALL"]
>>> assigned(code, calls[0])
'z'
"""

import dis
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType

_LAYOUT = frozenset(
    "T bfloat16 bool clone contiguous cpu cuda detach double expand expand_as flatten float half "
    "int long mT moveaxis movedim permute ravel requires_grad_ reshape reshape_as squeeze "
    "squeeze_ swapaxes swapdims t to transpose type type_as unflatten unsqueeze unsqueeze_ view "
    "view_as".split()
)
"""Methods and attributes whose result has the elements of the tensor."""
_JUMPS = frozenset({*dis.hasjrel, *dis.hasjabs})
_NOTHING = frozenset({"CACHE", "EXTENDED_ARG", "NOP"})
_LONGEST = 60  # instructions that are looked at


@lru_cache(maxsize=4096)
def assigned(code: CodeType, offset: int) -> str | None:
    """Return the variable that the call at this offset of the bytecode is assigned to.

    >>> assigned((lambda: None).__code__, 0) is None
    True
    """
    depth = 1  # of the stack, from the value up
    is_method = False  # whether a method of the value was loaded, and is to be called
    before = ""
    for step in _after(code, offset):
        is_top = depth == 1 or (depth == 2 and before == "COPY" and not is_method)
        if step.opname.startswith("STORE_") and step.opname != "STORE_SUBSCR":
            is_owned = step.opname == "STORE_ATTR"  # self.z = ...: self is above the value
            if (depth == 2 and not is_method) if is_owned else is_top:
                return str(step.argval[0] if isinstance(step.argval, tuple) else step.argval)
        if step.opcode in _JUMPS:
            return None
        after = depth + dis.stack_effect(step.opcode, step.arg, jump=False)
        if depth == 1:
            is_attribute = step.opname in ("LOAD_ATTR", "LOAD_METHOD")
            if is_attribute and step.argval not in _LAYOUT:
                return None
            if step.opname not in ("COPY", "PUSH_NULL") and not step.opname.startswith("LOAD_"):
                return None
            is_method = is_attribute and after > depth
        elif after == 1 and not (step.opname.startswith("CALL") if is_method else _is_index(step)):
            return None
        if after < 1:
            return None
        depth, before = after, step.opname
    return None


def _after(code: CodeType, offset: int) -> Iterator[dis.Instruction]:
    """Yield the instructions after an offset."""
    found = [i for i in dis.get_instructions(code) if i.offset > offset]
    return (step for step in found[:_LONGEST] if step.opname not in _NOTHING)


def _is_index(step: dis.Instruction) -> bool:
    """Return whether an instruction picks elements of a value."""
    is_newer = step.opname == "BINARY_OP" and step.argrepr == "[]"  # since Python 3.14
    return is_newer or step.opname in ("BINARY_SLICE", "BINARY_SUBSCR")
