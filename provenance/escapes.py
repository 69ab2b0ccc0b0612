"""Escapes: the moments at which a tracked value leaves tensor land and Python may branch on it.

What Python does afterwards depends on the value though no tensor says so. Each escape is noted with
its line; what it does then is said in `ancestral.provenance.control`. The checks of
`torch.distributions` on their own arguments are no escapes as long as they pass.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
import torch.distributions
from torch import Tensor

from ancestral.provenance import watching
from ancestral.provenance.algebra import Provenance
from ancestral.provenance.control import Escape, decisions_of

_TORCH = os.path.dirname(torch.__file__) + os.sep
_DISTRIBUTIONS = os.path.dirname(torch.distributions.__file__) + os.sep
_SAMPLERS = ("von_mises.py", "wishart.py")
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_OURS = tuple(os.path.join(_ROOT, folder, "") for folder in ("provenance", "trace"))

ESCAPES = frozenset(
    # to Python and to other libraries
    "__bool__ __int__ __float__ __complex__ __index__ __contains__ item tolist numpy __array__ "
    "__array_wrap__ is_nonzero equal allclose __dlpack__ untyped_storage _typed_storage storage "
    "_local_scalar_dense q_scale q_zero_point "
    # to a shape: how many elements of a sparse tensor are kept shows in those
    "indices values _indices _values _nnz crow_indices col_indices ccol_indices row_indices "
    "nonzero nonzero_static argwhere unique unique_consecutive bincount histc linalg_lstsq".split()
)


def may_escape(name: str) -> bool:
    """Return whether a function of this name can let values out."""
    name = name.split(".")[0]  # without its overload
    return name in ESCAPES or name in _BY_SECOND or name in ("__getitem__", "where", "one_hot")


def is_escape(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function lets values out: to Python, or into the shape of its result."""
    name = name.split(".")[0]
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(_is_tracked(item) and item.dtype in _MASKS for item in index) or any(
            _is_tracked(end)
            for item in index
            if isinstance(item, slice)
            for end in (item.start, item.stop, item.step)
        )
    if name == "one_hot":
        return (args[1] if len(args) > 1 else kwargs.get("num_classes", -1)) == -1
    if name in _BY_SECOND:
        return any(_is_tracked(item) for item in (*args[1:], *kwargs.values()))
    return name in ESCAPES or (name == "where" and len(args) + len(kwargs) == 1)


_MASKS = (torch.bool, torch.uint8)
# Functions whose result has a shape that the values of their second operand decide.
_BY_SECOND = frozenset({"masked_select", "repeat_interleave", "tensor_split"})


def _is_tracked(value: Any) -> bool:
    return isinstance(value, Tensor) and getattr(value, "_provenance", None) is not None


class EscapeError(RuntimeError):
    """A tracked value leaves tensor land in a recording that refuses it."""

    def __init__(self, escape: Escape) -> None:
        """Name the line, the sources, and the ways to mend it."""
        names = ", ".join(repr(name) for name in sorted(escape.sources))
        super().__init__(
            f"{escape.filename}:{escape.line}: a value that depends on {names} leaves tensor land, "
            "and what Python decides on it no gradient sees; either keep the decision in tensors "
            "(torch.where, gather, a mask), or read an.untrack(value) where no decision follows "
            "(a log line); an.record(control='strict') follows it at the price of variance"
        )


def escape(provenances: Iterable[Provenance], *, is_check_passed: bool = False) -> None:
    """Note that values with these provenances left tensor land in the caller's code.

    `is_check_passed` says that what left is the truth that a check of `torch.distributions` wants.

    Raises:
        EscapeError: if the recording refuses escapes.
    """
    found = [p for p in provenances if p.universe.state == "open"]
    frame = _caller(sys._getframe(1), is_check_passed) if found else None  # pyright: ignore[reportPrivateUsage]
    if frame is None:
        return
    for provenance in found:
        names = frozenset(source.name for source in provenance.sources)
        noted = Escape(names, frame.f_code.co_filename, frame.f_lineno)
        decisions = decisions_of(provenance.universe)
        if decisions.setting.raises and decisions.is_recording:
            raise EscapeError(noted)
        decisions.decide(provenance, noted)
        watching.watch()


def _caller(frame: FrameType | None, is_check_passed: bool) -> FrameType | None:
    """Return the frame outside torch that let the value out, None for a check that passed."""
    while frame is not None:
        filename = frame.f_code.co_filename
        # A rejection sampler's loop is its own affair; a divergence may be chosen by values.
        is_check = is_check_passed and not frame.f_code.co_name.startswith("_kl_")
        if filename.startswith(_DISTRIBUTIONS) and (is_check or filename.endswith(_SAMPLERS)):
            return None
        if not filename.startswith((_TORCH, *_OURS)):
            return frame
        frame = frame.f_back
    return None
