"""Frames: the owner of the code that runs, user, torch or library, by the name of its module.

The name stays right wherever a file is moved to. That of a module of torch or ours counts for the
code of its file alone: users run generated code, whose names are what they give it.
"""

import os
import sys
from collections.abc import Collection
from functools import lru_cache
from types import CodeType, FrameType
from typing import Any, Literal

Owner = Literal["user", "python", "torch", "distributions", "pyro", "library"]
_LAYERS = ("provenance", "trace", "estimators")  # models in ancestral.tools are the user's


def owner_of(frame: FrameType) -> Owner:
    """Return whose code a frame runs."""
    return code_owner(frame.f_globals.get("__name__"), frame.f_code.co_filename)


def module_of(frame: FrameType) -> str:
    """Return the name of the module that the code of a frame belongs to."""
    return str(frame.f_globals.get("__name__"))


def is_user(frame: FrameType) -> bool:
    """Return whether a frame runs neither torch's code nor Pyro's nor ours."""
    return code_owner(frame.f_globals.get("__name__"), frame.f_code.co_filename) == "user"


def user_frame(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the user's from a frame outwards, None in torch's threads."""
    while frame is not None and code_of(frame).owner != "user":
        frame = frame.f_back
    return frame


class Code:
    """What the code of a frame tells, whichever frame runs it.

    `has_self` says that its first argument is called so. By the offset of the bytecode, `lines` are
    file and line as a text, `calls` and `arguments` what a layer above makes of the call there.

    The code itself is held, so that no other has its `id` as long as this is found by that: to find
    it by the code takes all that a code consists of, and those of two files may be equal. The
    module is compared, since a code may be run under several names.
    """

    __slots__ = ("arguments", "calls", "code", "has_self", "lines", "module", "owner")

    def __init__(self, frame: FrameType) -> None:
        self.code: CodeType = frame.f_code
        self.module: object = frame.f_globals.get("__name__")
        self.owner = owner_of(frame)
        self.has_self = bool(self.code.co_argcount) and self.code.co_varnames[0] == "self"
        self.lines: dict[int, str] = {}
        self.calls: dict[int, Any] = {}
        self.arguments: dict[int, str | None] = {}

    def line(self, frame: FrameType) -> str:
        """Return the file and the line that a frame is at."""
        found = self.lines[frame.f_lasti] = f"{self.code.co_filename}:{frame.f_lineno}"
        return found


codes: dict[int, Code] = {}
"""Codes by their `id`, with what they tell: `code_of`, written out where a whole stack is walked,
finds it."""
_MOST_CODES = 4096


def code_of(frame: FrameType) -> Code:
    """Return what the code of a frame tells."""
    known = codes.get(id(frame.f_code))
    if known is None or known.module is not frame.f_globals.get("__name__"):
        if len(codes) >= _MOST_CODES:  # they are looked at again
            codes.clear()
        known = codes[id(frame.f_code)] = Code(frame)
    return known


def is_of(frame: FrameType | None, modules: Collection[str]) -> bool:
    """Return whether a frame runs code of some modules, or of what is in them.

    Code of the standard library and of numpy works for whoever calls it.
    """
    while frame is not None and modules:
        name = module_of(frame)
        parts = name.split(".")
        if any(".".join(parts[:end]) in modules for end in range(1, len(parts) + 1)):
            return True
        if parts[0] not in _SERVING:
            return False
        frame = frame.f_back
    return False


_SERVING = frozenset({*sys.stdlib_module_names, "numpy"}) - {"__main__"}


@lru_cache(maxsize=4096)
def code_owner(module: object, filename: str) -> Owner:
    """Return whose code of a file is that runs by the name of a module."""
    if filename.startswith("<frozen"):  # on the way to an import
        return "python"
    named = owner_of_module(str(module))
    file = getattr(sys.modules.get(str(module)), "__file__", None)
    is_its_file = file is not None and os.path.realpath(file) == os.path.realpath(filename)
    return named if is_its_file else "user"


def owner_of_module(module: str) -> Owner:
    """Return whose a module is.

    >>> [owner_of_module(each) for each in ("torch.nn.functional", "torch_geometric", "__main__")]
    ['torch', 'user', 'user']
    """
    parts = module.split(".")
    if parts[0] == "torch":
        return "distributions" if parts[1:2] == ["distributions"] else "torch"
    if parts[0] == "pyro":
        return "pyro"
    is_ours = parts[0] == "ancestral" and parts[1:2] and parts[1] in _LAYERS
    return "library" if is_ours else "user"
