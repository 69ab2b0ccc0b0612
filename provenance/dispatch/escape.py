"""Escapes: the moments at which a tracked value leaves tensor land and Python may branch on it.

What Python does afterwards depends on the value though no tensor says so. Each escape is noted with
its line; what it does then is said in `ancestral.provenance.tensor.control_flow`. The checks of
`torch.distributions` on their own arguments are no escapes as long as they pass.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.provenance import Provenance, Universe
from ancestral.provenance.rules.registry import tensors_in
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.control_flow import Escape, concerned, decisions_of
from ancestral.provenance.tensor.frame_owner import module_of, owner_of

_SAMPLERS = frozenset({"torch.distributions.von_mises", "torch.distributions.wishart"})

ESCAPES = frozenset(
    # to Python and to other libraries, as bytes and as an address too
    "__bool__ __int__ __float__ __complex__ __index__ __contains__ item tolist numpy __array__ "
    "__array_wrap__ is_nonzero equal allclose __dlpack__ untyped_storage storage "
    "_local_scalar_dense __repr__ __reduce_ex__ data_ptr const_data_ptr q_scale q_zero_point "
    "apply_ map_ map2_ _assert _assert_async "
    # to a shape: how many elements of a sparse tensor are kept shows in those
    "indices values _indices _values _nnz crow_indices col_indices ccol_indices row_indices "
    "nonzero nonzero_static argwhere unique unique_consecutive bincount histc linalg_lstsq "
    # what traces symbols computes with plain numbers
    "sym_float sym_int sym_not _sym_sqrt sym_sum".split()
)


def may_escape(name: str) -> bool:
    """Return whether a function of this name can give values away."""
    name = name.split(".")[0]  # without its overload
    return name in ESCAPES or name in _BY_SECOND or name in _BY_ARGUMENTS


def is_escape(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function gives values away: to Python, or into the shape of its result."""
    name = name.split(".")[0]
    if name == "__getitem__":
        index = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(_is_tracked(item) and item.dtype in _MASKS for item in index) or any(
            _is_tracked(end)
            for item in index
            if isinstance(item, slice)
            for end in (item.start, item.stop, item.step)
        )
    if name == "select":  # its index only tells where to read, its dimension what is left
        return _is_tracked(args[1] if len(args) > 1 else kwargs.get("dim"))
    if name == "one_hot":
        return bool((args[1] if len(args) > 1 else kwargs.get("num_classes", -1)) == -1)
    if name == "repeat_interleave" and len(args) + len(kwargs) == 1:
        return True  # the counts alone
    if name in _BY_SECOND:
        return any(map(_is_tracked, tensors_in(args[1:], kwargs)))
    return name in ESCAPES or (name == "where" and len(args) + len(kwargs) == 1)


_MASKS = (torch.bool, torch.uint8)
_BY_ARGUMENTS = ("__getitem__", "where", "one_hot", "select")
# Functions whose result has a shape that the values after their first operand decide.
_BY_SECOND = frozenset(
    "masked_select repeat_interleave tensor_split _pack_padded_sequence "
    # in Python they compute sizes from the numbers that they are given
    "interpolate fractional_max_pool2d fractional_max_pool3d fractional_max_pool2d_with_indices "
    "fractional_max_pool3d_with_indices lp_pool1d lp_pool2d lp_pool3d".split()
)


def _is_tracked(value: Any) -> bool:
    return isinstance(value, Tensor) and getattr(value, "_provenance", None) is not None


class EscapeError(RuntimeError):
    """A tracked value leaves tensor land in a recording that refuses it."""


def _noted(provenance: Provenance, frame: FrameType) -> Escape:
    """Return an escape at a line, for the recording that it happens in.

    Raises:
        EscapeError: if that refuses it.
    """
    names = frozenset(source.name for source in provenance.sources)
    noted = Escape(names, frame.f_code.co_filename, frame.f_lineno)
    decisions = decisions_of(provenance.universe)
    if decisions.setting.raises and decisions.is_recording:
        raise EscapeError(
            f"{noted.filename}:{noted.line}: a value that depends on "
            f"{', '.join(map(repr, sorted(names)))} leaves tensor land, "
            "and what Python decides on it no gradient sees; either keep the decision in tensors "
            "(torch.where, gather, a mask), or read an.untrack(value) where no decision follows "
            "(a log line); an.record(control='strict') follows it at the price of variance"
        )
    return noted


class ConfinedError(RuntimeError):
    """Python is to decide on a tensor that has many values of a source at once."""


def escape(provenances: Iterable[Provenance], *, is_check_passed: bool = False) -> None:
    """Note that values with these provenances left tensor land in the caller's code.

    `is_check_passed` says that what left is the truth that a check of `torch.distributions` wants.

    Raises:
        EscapeError: if the recording refuses escapes.
        ConfinedError: if they stand for many values at once.
    """
    given = [each for found in provenances for each in concerned(found)]
    confined = _confined(given)
    found = [p for p in given if not _is_known(p)]
    if not found and not confined:
        return
    frame, is_check = _caller(sys._getframe(1), is_check_passed)  # pyright: ignore[reportPrivateUsage]
    if frame is None:
        return
    if is_check:
        fail(found, "a check of torch.distributions did not pass")
        return
    if confined:
        line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        raise ConfinedError(
            f"{line}: a value that depends on {', '.join(map(repr, sorted(confined)))}, which has "
            "all its values at once, leaves tensor land, where Python can decide on one alone; "
            "keep the decision in tensors (torch.where, gather, a mask), read an.untrack(value) "
            'where no decision follows, or draw the site: infer={"enumerate": False}'
        )
    for provenance in found:
        decisions_of(provenance.universe).decide(provenance, _noted(provenance, frame))
        storage.watch()


def _confined(provenances: Iterable[Provenance]) -> frozenset[str]:
    """Return the names of the sources that stand for many values at once."""
    origins = (source for p in provenances for source in p.universe.origins(p.members))
    return frozenset(source.name for source in origins if source.is_confined)


def _is_known(provenance: Provenance) -> bool:
    """Return whether all that a value depends on is data."""
    origins = list(provenance.universe.origins(provenance.members))
    return bool(origins) and all(source.is_known for source in origins)


def fail(provenances: Iterable[Provenance], text: str) -> None:
    """Note that something raised because of values with these provenances.

    Only the runs in which it raises show that anything depends on them, so that what those count
    for them is no estimate: whoever catches the error gets no gradient.

    Raises:
        EscapeError: if the recording refuses escapes.
    """
    frame, _ = _caller(sys._getframe(1), False)  # pyright: ignore[reportPrivateUsage]
    for provenance in [each for found in provenances for each in concerned(found)]:
        if frame is None or _is_known(provenance):
            continue
        noted, decisions = _noted(provenance, frame), decisions_of(provenance.universe)
        if decisions.setting.taints:
            decisions.failures.append((noted, text))


def _caller(frame: FrameType | None, is_check_passed: bool) -> tuple[FrameType | None, bool]:
    """Return the frame outside torch that read the value, and whether a check is about to raise.

    None for a check that passed, and for a sampler's own loop.
    """
    is_check = False
    while frame is not None:
        owner = owner_of(frame)
        if owner == "user":
            return frame, is_check
        if owner == "distributions":
            if is_check_passed and not frame.f_code.co_name.startswith("_kl_"):
                return None, False
            if module_of(frame) in _SAMPLERS:
                return None, False
            is_check |= frame.f_code.co_name in _CHECKS
        frame = frame.f_back
    return None, False


def _line() -> str:
    frame, _ = _caller(sys._getframe(1), False)  # pyright: ignore[reportPrivateUsage]
    return "<unknown>" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


Universe.locate = staticmethod(_line)
_CHECKS = frozenset({"__init__", "_validate_sample"})
