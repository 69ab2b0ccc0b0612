"""Refusal: why a loss function is not compiled, and the line of it that is to blame."""

import os
import re
from functools import lru_cache
from pathlib import Path
from types import CodeType

import torch
from torch import fx

from ancestral.provenance.tensor.torch_internals import compiler
from ancestral.trace.context.place import Location

_LAYERS = ("provenance", "trace", "estimators")
_ROOTS = (
    os.path.realpath(Path(torch.__file__).parent),
    *(os.path.realpath(Path(__file__).parents[2] / part) for part in _LAYERS),
)
_RAISED = re.compile(r"raised exception NotImplementedError\((?:\[.*?)?['\"](.+?)['\"]")
_FRAME = re.compile(r'File "([^"]+)", line (\d+), in (\S+)')


class Refusal(Exception):  # noqa: N818 (it is caught, and becomes a warning)
    """A loss function is not compiled."""

    def __init__(self, reason: str, at: Location | None = None) -> None:
        """Take the reason, and the line."""
        super().__init__(reason)
        self.reason, self.at = reason, at

    def __str__(self) -> str:
        """Show the line and the reason."""
        return self.reason if self.at is None else f"{self.at}: {self.reason}"

    @classmethod
    def of(cls, node: fx.Node, reason: str) -> "Refusal":
        """Blame the line that a node of a captured graph came from."""
        return cls(reason, line_of(node))


def frames_of(node: fx.Node) -> list[Location]:
    """Return the frames that a node of a captured graph came from, the outermost first."""
    text = str(node.meta.get("stack_trace") or "")
    return [Location(name, int(line), function) for name, line, function in _FRAME.findall(text)]


def line_of(node: fx.Node) -> Location | None:
    """Return the line of the user's code that a node came from."""
    return last_of_user(frames_of(node))


def last_of_user(frames: list[Location]) -> Location | None:
    """Return the innermost frame that is the user's."""
    ours = [frame for frame in frames if _is_of_user(frame.filename)]
    return ours[-1] if ours else None


@lru_cache(maxsize=1024)
def _is_of_user(filename: str) -> bool:
    return not os.path.realpath(filename).startswith(tuple(root + os.sep for root in _ROOTS))


def refusal_of(error: BaseException) -> Refusal:
    """Return why the compiler, or a step of ours, could not go on."""
    inner = getattr(error, "inner_exception", error)
    frames = [
        Location(frame.filename, frame.lineno or 0, frame.name)
        for frame in getattr(error, "real_stack", None) or ()
    ]
    if isinstance(error, compiler().limit_hit):
        return Refusal(
            "it was compiled anew more often than torch._dynamo.config.recompile_limit allows: "
            "something that it reads changes from step to step, such as a counter (an attribute "
            "that is an int) or the size of a batch (dynamic=True)"
        )
    text = str(getattr(error, "gb_type", "") or inner or type(inner).__name__)
    raised = _RAISED.search(str(inner))  # by a statement, as one that is not compiled
    if raised is not None:
        return Refusal(raised[1], last_of_user(frames))
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    kind = "the compiler cannot follow it" if frames else type(inner).__name__
    return Refusal(f"{kind}: {first}", last_of_user(frames))


def is_of_library(code: CodeType | None) -> bool:
    """Return whether some code stands in a file of the library."""
    ours = tuple(root + os.sep for root in _ROOTS[1:])
    return code is not None and os.path.realpath(code.co_filename).startswith(ours)
