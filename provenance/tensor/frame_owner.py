"""Frames: the owner of the code that runs, user, torch or library, by the name of its module.

The name stays right wherever a file is moved to. That of a module of torch or ours counts for the
code of its file alone: users run generated code, whose names are what they give it.
"""

import os
import sys
from collections.abc import Collection
from functools import lru_cache
from types import FrameType
from typing import Literal

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
    while frame is not None:
        if code_owner(frame.f_globals.get("__name__"), frame.f_code.co_filename) == "user":
            break
        frame = frame.f_back
    return frame


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
