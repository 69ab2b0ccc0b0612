"""Chosen losses: tensors without provenance that Python may have chosen by a drawn value.

What is computed after an escape carries it. A tensor that was there before does not, such as a
constant or a parameter, and yet it may be the loss on some of the paths. So when a recording ends
in which a value escaped, the tensors are noted that the functions around it go on with: a loss that
is one of them may have been chosen, any other has nothing to do with the recording.
"""

from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import ref

from torch import Tensor, nn

from ancestral.provenance.algebra import Universe, alive
from ancestral.provenance.control import decisions_of, recording
from ancestral.provenance.tensor import ProvenanceTensor
from ancestral.trace.stack import local

if TYPE_CHECKING:
    from ancestral.trace.record import Trace

_LONGEST = 100


def note_finished(trace: "Trace", frame: FrameType) -> None:
    """Note what a recording that ends may have chosen; `frame` is that of its block."""
    universe = trace.universe
    local.choosing = None  # the thread keeps one recording at most
    if not _has_chosen(universe) or not any(node.is_learned for node in trace.everything):
        return
    trace.finished = {id(t): ref(t) for t in _plain(_reachable(frame))}
    if trace.finished:
        local.choosing = universe  # nothing else may: a plain loss does not


def choosing(losses: Iterable[Tensor]) -> list[Universe]:
    """Return the recordings that may have chosen one of these, which have no provenance."""
    around = recording.get()
    if around is not None and decisions_of(around).finished is not None:
        return [around]
    given, last = list(losses), local.choosing
    found = [
        universe
        for universe in list(alive.values())
        if _has_chosen(universe)
        and any(_is_noted(getattr(universe.owner, "finished", {}), loss) for loss in given)
    ]
    # One that outlives the step, as a parameter does, is meant as the loss of the last.
    is_last = last in found and all(u is last or u.state == "used" for u in found)
    return [last] if last is not None and is_last else found


def _is_noted(finished: dict[int, ref[Tensor]], loss: Tensor) -> bool:
    held = finished.get(id(loss))
    return held is not None and held() is loss


def _has_chosen(universe: Universe) -> bool:
    return universe.state != "settled" and decisions_of(universe).finished is not None


def _reachable(frame: FrameType) -> Iterator[Any]:
    """Yield what the functions around a block hold by a name, and what its module does."""
    yield from list(frame.f_globals.values())
    outer: FrameType | None = frame
    while outer is not None:
        yield from list(outer.f_locals.values())
        outer = outer.f_back


def _plain(values: Iterable[Any]) -> Iterator[Tensor]:
    """Yield the tensors without provenance among values, one level deep, and in modules."""
    for value in values:
        if isinstance(value, Tensor):
            if not isinstance(value, ProvenanceTensor):
                yield value
        elif isinstance(value, nn.Module):
            yield from value.parameters()
            yield from value.buffers()
        elif isinstance(value, (list, tuple, dict)):
            if len(value) <= _LONGEST:
                inner = value.values() if isinstance(value, dict) else value
                yield from (t for t in inner if type(t) in (Tensor, nn.Parameter))
        elif not isinstance(value, type):
            held = getattr(value, "__dict__", None)
            if type(held) is dict and len(held) <= _LONGEST:
                yield from (t for t in list(held.values()) if type(t) in (Tensor, nn.Parameter))
