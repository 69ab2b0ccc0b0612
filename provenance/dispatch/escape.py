"""Escapes: the moments at which a tracked value leaves tensor land and Python may branch on it.

What Python does afterwards depends on the value though no tensor says so. Each escape is noted with
its line; what it does then is said in `ancestral.provenance.tensor.control_flow`. Checks, and those
of `torch.distributions` on their own arguments, are no escapes as long as they pass.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

from ancestral.provenance.algebra.provenance import Provenance, Sources, Universe
from ancestral.provenance.dispatch.passed_checks import Outcome, Read, outcome_of
from ancestral.provenance.rules.registry import ESCAPES
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.control_flow import Escape, concerned, decisions_of
from ancestral.provenance.tensor.frame_owner import code_of, codes, is_of, module_of, owner_of

_HANDING_ON = frozenset(
    {"torch.overrides", "torch.utils._device"}
)  # the latter of set_default_device
_SAMPLERS = frozenset({"torch.distributions.von_mises", "torch.distributions.wishart"})


def is_escape(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether a function gives values away: to Python, or into the shape of its result."""
    given = ESCAPES.get(name.split(".")[0], False)  # without its overload
    return given if isinstance(given, bool) else given(args, kwargs)


class EscapeError(RuntimeError):
    """A tracked value leaves tensor land in a recording that refuses it."""


def _noted(provenance: Provenance, read: Sources, frame: FrameType) -> Escape:
    """Return an escape of some sources at a line, for the recording that it happens in.

    Raises:
        EscapeError: if that refuses it.
    """
    names = frozenset([source.name for source in read])
    line = (frame.f_code.co_filename, frame.f_lineno)
    noted = Escape(names, *line, module=module_of(frame))
    decisions = decisions_of(provenance.universe)
    if decisions.ruling.setting.raises and decisions.is_recording:
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


def escape(provenances: Iterable[Provenance], read: Read | None = None) -> None:
    """Note that values with these provenances left tensor land in the caller's code.

    A `read` of Python may be a check, which is no escape as long as it passes.

    Raises:
        EscapeError: if the recording refuses escapes.
        ConfinedError: if they stand for many values at once.
    """
    given = [each for found in provenances for each in concerned(found)]
    if not given:
        return
    # Found once: behind a value may stand a long chain of decisions.
    read_by = {each: frozenset(each.sources) for each in given}
    confined = {source.name for each in read_by.values() for source in each if source.is_confined}
    found = [each for each in given if not _are_known(read_by[each])]
    if not found and not confined:
        return
    here = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    frame, is_check = _caller(here, read is not None and read.result is True)
    if frame is None:
        return
    if is_check:
        fail(found, "a check of torch.distributions did not pass")
        return
    if all(is_of(frame, decisions_of(each.universe).ruling.trust) for each in given):
        return
    outcome = None if read is None else _checked(here, read, found)
    if outcome == "raises":
        fail(found, "a check did not pass")
    if outcome is not None:
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
        sources = read_by[provenance]
        noted = _noted(provenance, sources, frame)
        decisions_of(provenance.universe).decide(provenance, sources, noted)
        storage.watch()


def _checked(
    frame: FrameType | None, read: Read, provenances: Sequence[Provenance]
) -> Outcome | None:
    """Return what becomes of a check that reads a value, None if what reads it is none."""
    began = [decisions_of(found.universe).began for found in provenances]
    own = getattr(read.function, "__code__", None)
    while frame is not None and (
        owner_of(frame) == "library" or module_of(frame) in _HANDING_ON or frame.f_code is own
    ):
        frame = frame.f_back
    return None if frame is None else outcome_of(read, frame, began[0] if began else None)


def _are_known(sources: Sources) -> bool:
    """Return whether all that a value depends on is data."""
    return bool(sources) and all([source.is_known for source in sources])


def fail(provenances: Iterable[Provenance], text: str) -> None:
    """Note that something raised because of values with these provenances.

    Only the runs in which it raises show that anything depends on them, so that what those count
    for them is no estimate: whoever catches the error gets no gradient.

    Raises:
        EscapeError: if the recording refuses escapes.
    """
    frame, _ = _caller(sys._getframe(1), False)  # pyright: ignore[reportPrivateUsage]
    for provenance in [each for found in provenances for each in concerned(found)]:
        sources = frozenset(provenance.sources)
        if frame is None or _are_known(sources):
            continue
        noted, decisions = _noted(provenance, sources, frame), decisions_of(provenance.universe)
        if decisions.ruling.setting.taints:
            decisions.failures.append((noted, text))


def _caller(frame: FrameType | None, is_check_passed: bool) -> tuple[FrameType | None, bool]:
    """Return the frame outside torch that read the value, and whether a check is about to raise.

    None for a check that passed, and for a sampler's own loop.
    """
    is_check = False
    while frame is not None:
        owner = owner_of(frame)
        if owner in ("user", "pyro"):
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
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        known = codes.get(id(frame.f_code))
        if known is None or known.module is not frame.f_globals.get("__name__"):
            known = code_of(frame)
        if known.owner == "user":
            return known.lines.get(frame.f_lasti) or known.line(frame)
        if known.owner == "distributions" and known.module in _SAMPLERS:
            break
        frame = frame.f_back
    return "<unknown>"


Universe.locate = staticmethod(_line)
_CHECKS = frozenset({"__init__", "_validate_sample"})
