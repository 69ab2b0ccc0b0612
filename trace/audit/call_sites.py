"""Callers: the owner and line of the code that calls torch."""

import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch.overrides import resolve_name

from ancestral.provenance.tensor.frame_owner import module_of, owner_of
from ancestral.provenance.tensor.tensor import alias
from ancestral.trace.context.place import Location

# Modules that stand between the user's code and torch, and hand on what they are given.
PASSING = frozenset(
    {
        "ancestral.provenance.dispatch.shadow_memory",
        "ancestral.provenance.dispatch.torch_function",
        "ancestral.trace.audit.auditor",
        "ancestral.trace.audit.call_sites",
        "ancestral.trace.intercept.distributions",
        "ancestral.trace.recording.module_wrapper",
    }
)
# Those in which only some functions do: what runs the user's op.
RUNNING = {
    "ancestral.provenance.dispatch.fastpath": frozenset({"operator", "method", "run_elementwise"}),
    "ancestral.provenance.dispatch.inplace": frozenset({"run_write"}),
}
# It runs the very op that gives a number to Python, however it is asked for.
READING = "ancestral.trace.intercept.tensor_reads"
_NOWHERE = Location("<unknown>", 0, "<unknown>")


@dataclass(frozen=True)
class Call:
    """Where torch is called from.

    `is_internal`: by the library for its own sake; `is_alias`: to give the same data another
    provenance; `is_check`: by `torch.distributions`, which checks its arguments and only raises.
    """

    location: Location
    is_internal: bool
    is_alias: bool
    is_check: bool


def call() -> Call:
    """Return where the call that goes on comes from."""
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    is_internal = is_alias = is_check = False
    while frame is not None:
        code = frame.f_code
        owner, module = owner_of(frame), module_of(frame)
        if owner in ("user", "pyro"):
            location = Location(code.co_filename, frame.f_lineno, code.co_name)
            return Call(location, is_internal, is_alias, is_check)
        if module == READING:
            is_internal = is_alias = False
        elif owner == "library" and not _hands_on(module, code.co_name):
            is_internal, is_alias = True, is_alias or code is alias.__code__
        is_check = is_check or owner == "distributions"
        frame = frame.f_back
    return Call(_NOWHERE, is_internal, is_alias, is_check)


def _hands_on(module: str, function: str) -> bool:
    """Return whether a function of ours runs what the user asked for."""
    return module in PASSING or function in RUNNING.get(module, ())


_VALUES = frozenset("data T mT H mH real imag grad _grad".split())
_SIZES = frozenset("size stride numel dim nelement storage_offset".split())


def is_metadata(func: Any) -> bool:
    """Return whether a torch function reads or writes something that is no value of a tensor."""
    name = getattr(func, "__name__", "")
    if name in ("__get__", "__set__"):
        return getattr(func.__self__, "__name__", "") not in _VALUES
    return name in _SIZES


def spelled(func: Any) -> str:
    """Return a torch function as one writes it."""
    found = resolve_name(func) or getattr(func, "__qualname__", None) or str(func)
    # Torch may have listed its functions while a recording stood in the place of some.
    return found.replace("_VariableFunctionsClass.", "torch.").replace(
        "TensorBase.", "torch.Tensor."
    )
