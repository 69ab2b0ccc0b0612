"""Calls: whose code it is that calls torch, read from the frames."""

import os
import sys
from dataclasses import dataclass
from functools import lru_cache
from types import FrameType
from typing import Any

import torch
import torch.distributions
from torch.overrides import resolve_name

from ancestral.provenance.tensor import alias
from ancestral.trace.naming import Location

_TORCH = os.path.dirname(torch.__file__) + os.sep
_DISTRIBUTIONS = os.path.dirname(torch.distributions.__file__) + os.sep
_LIBRARY = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
_LAYERS = tuple(
    os.path.join(_LIBRARY, layer) + os.sep for layer in ("provenance", "trace", "estimators")
)
# They stand between the user's code and torch, and hand on what they are given.
_DOORS = frozenset(
    os.path.join(_LIBRARY, *path)
    for path in (
        ("provenance", "memory.py"),
        ("provenance", "propagation.py"),
        ("trace", "audit.py"),
        ("trace", "calls.py"),
        ("trace", "distributions.py"),
        ("trace", "wrap.py"),
    )
)
# It runs the very op that lets a number out, however it is asked for.
_SCALARS = os.path.join(_LIBRARY, "trace", "scalars.py")
# In these files, only what runs the user's op does.
_RUNNERS = {
    os.path.join(_LIBRARY, "provenance", "operators.py"): ("operator", "method", "run_elementwise"),
    os.path.join(_LIBRARY, "provenance", "writes.py"): ("run_write",),
}
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
        kind = _kind(code.co_filename)
        if kind == "scalars":
            is_internal = is_alias = False
        if kind == "runner":
            runners = _RUNNERS[os.path.realpath(code.co_filename)]
            kind = "door" if code.co_name in runners else "library"
        if kind == "user":
            location = Location(code.co_filename, frame.f_lineno, code.co_name)
            return Call(location, is_internal, is_alias, is_check)
        if kind == "library":
            is_internal, is_alias = True, is_alias or code is alias.__code__
        is_check = is_check or kind == "distributions"
        frame = frame.f_back
    return Call(_NOWHERE, is_internal, is_alias, is_check)


@lru_cache(maxsize=4096)
def _kind(filename: str) -> str:
    if filename.startswith(_DISTRIBUTIONS):
        return "distributions"
    if filename.startswith((_TORCH, "<frozen")):
        return "torch"
    real = os.path.realpath(filename)
    if real in _RUNNERS:
        return "runner"
    if real == _SCALARS:
        return "scalars"
    if real in _DOORS:
        return "door"
    return "library" if real.startswith(_LAYERS) else "user"


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
    return found.replace("_VariableFunctionsClass.", "torch.")
