"""Escapes: the moments at which a tracked value leaves tensor land and Python may branch on it.

What Python does afterwards depends on the value though no tensor says so. Each escape is noted in
the universe of its sources, with the line; `Universe.control` then holds the sources that any
later decision may rest on. The checks of `torch.distributions` on their own arguments only raise,
so they are no escapes.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.distributions
from torch import Tensor

from ancestral.provenance import watching
from ancestral.provenance.algebra import Provenance

_TORCH = os.path.dirname(torch.__file__) + os.sep
_DISTRIBUTIONS = os.path.dirname(torch.distributions.__file__) + os.sep
hidden = [_TORCH, os.path.dirname(os.path.abspath(__file__)) + os.sep]
"""Where the files lie that let values out for those who called them."""

ESCAPES = frozenset(
    # to Python and to other libraries
    "__bool__ __int__ __float__ __complex__ __index__ __contains__ item tolist numpy __array__ "
    "__array_wrap__ is_nonzero equal allclose __dlpack__ untyped_storage _typed_storage storage "
    # to a shape
    "nonzero nonzero_static argwhere unique unique_consecutive bincount histc linalg_lstsq "
    # what traces symbols computes with plain numbers
    "sym_float sym_int sym_not sym_sqrt _sym_sqrt sym_ite sym_max sym_min sym_sum".split()
)


def may_escape(name: str) -> bool:
    """Return whether a function of this name can let values out."""
    return name in ESCAPES or name in _BY_SECOND or name in ("__getitem__", "where", "one_hot")


def is_escape(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function lets values out: to Python, or into the shape of its result."""
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(_is_tracked(item) and item.dtype in _MASKS for item in index) or any(
            _is_tracked(end)
            for item in index
            if isinstance(item, slice)
            for end in (item.start, item.stop, item.step)
        )
    if name == "one_hot":
        return bool((args[1] if len(args) > 1 else kwargs.get("num_classes", -1)) == -1)
    if name in _BY_SECOND:
        return any(_is_tracked(item) for item in (*args[1:], *kwargs.values()))
    return name in ESCAPES or (name == "where" and len(args) + len(kwargs) == 1)


_MASKS = (torch.bool, torch.uint8)
# Functions whose result has a shape that the values of their second operand decide.
_BY_SECOND = frozenset({"masked_select", "repeat_interleave", "tensor_split"})


def _is_tracked(value: Any) -> bool:
    return isinstance(value, Tensor) and getattr(value, "_provenance", None) is not None


@dataclass(frozen=True)
class Escape:
    """One escape: what left, and where."""

    sources: frozenset[str]
    filename: str
    line: int

    def __str__(self) -> str:
        """Show the place and the sources."""
        return f"{self.filename}:{self.line}: {', '.join(sorted(self.sources))}"


def escape(provenances: Iterable[Provenance]) -> None:
    """Note that values with these provenances left tensor land in the caller's code."""
    frame = _caller(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
    if frame is None:
        return
    for provenance in provenances:
        universe = provenance.universe
        if universe.state == "open":
            universe.control |= provenance.bits
            watching.control(universe)
            names = frozenset(source.name for source in provenance.sources)
            universe.escapes.append(Escape(names, frame.f_code.co_filename, frame.f_lineno))


def _caller(frame: FrameType | None) -> FrameType | None:
    """Return the frame outside torch that let the value out, None for torch's own checks."""
    while frame is not None:
        filename = frame.f_code.co_filename
        if filename.startswith(_DISTRIBUTIONS):
            return None
        if not filename.startswith(tuple(hidden)):
            return frame
        frame = frame.f_back
    return None
