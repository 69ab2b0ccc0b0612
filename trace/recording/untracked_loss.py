"""Chosen losses: tensors without provenance that Python may have chosen by a drawn value.

What is computed after an escape carries it. A tensor that was there before does not, such as a
constant or a parameter, and yet it may be the loss on some of the paths. It is taken for one of the
recording in which a value escaped: unbiased if it was not chosen either, since the score times a
constant has mean zero.
"""

from ancestral.provenance.algebra.provenance import Universe, alive
from ancestral.provenance.tensor.control_flow import decisions_of, recording
from ancestral.trace.recording.trace import Trace


def choosing() -> list[Universe]:
    """Return the recordings that may have chosen a loss.

    These are those of which no gradient was asked yet, else the last of all.
    """
    around = recording.get()
    if around is not None and decisions_of(around).finished is not None:
        return [around]
    every = [universe for universe in list(alive.values()) if isinstance(universe.owner, Trace)]
    found = [universe for universe in every if _may_have_chosen(universe)]
    # Autograd keeps recordings whose surrogate was taken in a circle, until Python looks for it.
    return [u for u in found if u.state == "open"] or [u for u in found if u is every[-1]]


def _may_have_chosen(universe: Universe) -> bool:
    trace = universe.owner
    return (
        universe.state != "settled"
        and isinstance(trace, Trace)
        and decisions_of(universe).finished is not None
        and any(node.is_learned for node in trace.everything)
    )
