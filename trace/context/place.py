"""Place of a draw: the source line, the variable it is assigned to, the module around it.

All three are read from the frames of the call, so that no model has to say them.
"""

import ast
import linecache
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import NamedTuple

import torch.autograd.functional
from torch import nn

from ancestral.provenance.tensor.frame_owner import (
    Code,
    code_of,
    codes,
    is_user,
    module_of,
    user_frame,
)
from ancestral.trace.context.assigned_name import assigned


@dataclass(frozen=True)
class Location:
    """A place in the source."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        """Show the place as editors and terminals understand it."""
        return f"{self.filename}:{self.line}"


class Place(NamedTuple):
    """What the frames of a call tell: its location, the variable assigned, the module around.

    `module_path` is its path within the outermost module that holds it. `is_differentiated` is
    whether a function of `torch.autograd.functional` is among them.
    """

    location: Location
    variable: str | None
    module_path: str
    is_differentiated: bool = False


def place() -> Place:
    """Return where the user's code called us."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    found: Place | None = None
    modules: list[nn.Module] = []
    is_differentiated = False
    while frame is not None:
        known = codes.get(id(frame.f_code))
        if known is None or known.module is not frame.f_globals.get("__name__"):
            known = code_of(frame)
        if known.owner == "user":
            if found is None:
                found = known.calls.get(frame.f_lasti) or _called(known, frame)
            # Of most frames nothing but the owner counts: to list all variables takes longer.
            if known.has_self:
                owner = frame.f_locals.get("self")
                if isinstance(owner, nn.Module) and owner not in modules:
                    modules.append(owner)
        elif known.owner == "torch" and frame.f_code.co_name in DERIVATIVES and found is not None:
            is_differentiated = is_differentiated or frame.f_code.co_filename == _FUNCTIONAL
        frame = frame.f_back
    if found is None:  # called from torch's own threads
        return Place(Location("<unknown>", 0, "<unknown>"), None, "")
    if is_differentiated or len(modules) > 1:
        return Place(found.location, found.variable, module_path(modules), is_differentiated)
    return found


_FUNCTIONAL = torch.autograd.functional.__file__
DERIVATIVES = frozenset("hessian hvp jacobian jvp vhp vjp".split())
"""The functions of `torch.autograd.functional`, which differentiate by copies of what is given."""


def _called(known: Code, frame: FrameType) -> Place:
    """Return the place of the call that a frame is at, without what the frames around it tell."""
    code, offset = known.code, frame.f_lasti
    location = Location(code.co_filename, frame.f_lineno, code.co_name)
    found = known.calls[offset] = Place(location, assigned(code, offset), "")
    return found


def stacklevel() -> int:
    """Return the `stacklevel` of a warning of the caller's that shows the user's line."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    level = 1
    while frame is not None and not is_user(frame):
        frame, level = frame.f_back, level + 1
    return level


def line_of(error: BaseException) -> Location | None:
    """Return the line of the user's code that an error came out of last."""
    found = None
    step = error.__traceback__
    while step is not None:
        if is_user(step.tb_frame) and module_of(step.tb_frame) != "contextlib":
            code = step.tb_frame.f_code
            found = Location(code.co_filename, step.tb_lineno, code.co_name)
        step = step.tb_next
    return found


def module_path(modules: Sequence[nn.Module]) -> str:
    """Return the dotted path of the innermost module, the first, within the outermost around it."""
    if len(modules) < 2:
        return ""
    inner = modules[0]
    for outer in reversed(modules[1:]):
        for path, module in outer.named_modules():
            if module is inner:  # what comes after it is not looked at: each draw asks
                return str(path)
    return ""


def argument_name() -> str | None:
    """Return the first argument of the user's call that is going on, where it is a variable."""
    frame = user_frame(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
    if frame is None:
        return None
    known, offset = code_of(frame).arguments, frame.f_lasti
    if offset not in known:
        known[offset] = _argument(frame.f_code, offset)
    return known[offset]


def _argument(code: CodeType, offset: int) -> str | None:
    positions = list(code.co_positions())
    first, last, start, end = positions[offset // 2]
    if first is None or first != last or start is None or end is None:
        return None
    line = linecache.getline(code.co_filename, first).encode()[start:end].decode()
    try:
        call = ast.parse(line.strip(), mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(call, ast.Call) or not call.args:
        return None
    value = call.args[0]
    if isinstance(value, ast.Name):
        return value.id
    return str(value.attr) if isinstance(value, ast.Attribute) else None
