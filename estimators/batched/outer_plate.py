"""Outer plate: the leftmost dimension, along which a program runs many times at once.

A program that broadcasts needs no change for it. That its repetitions stay apart is not taken on
trust: the plate checks the alignments of all that is within it, and Python may read no value that
differs among them.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> with record():
...     along("runs", 5, 1, lambda: sample("z", Normal(torch.zeros(2), 1.0))).shape
torch.Size([5, 2])
"""

from collections.abc import Callable
from typing import TypeVar

from ancestral.provenance.algebra.provenance import Provenance, Universe
from ancestral.provenance.tensor.control_flow import decisions_of
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.enum_dims import trailing
from ancestral.trace.nodes.node import Node
from ancestral.trace.program.plate import plate
from ancestral.trace.recording.plate_checks import Ledger
from ancestral.trace.recording.record import current
from ancestral.trace.recording.trace import Trace

T = TypeVar("T")
Traces = tuple[Trace, ...]
OUTER = "the runs of a vectorized program"


def width(node: Node) -> int:
    """Return how many dimensions of its batch a node uses, or the plates around it."""
    plates = (-plate.dim for plate in node.cond_indep_stack if plate.dim is not None)
    batch = node.shape[: len(node.shape) - node.event_dims] if node.type == "sample" else ()
    if node.enumeration is not None:  # what stands for values is to the left, behind ones
        batch = trailing(batch, node.enumeration.room)
        batch = batch[next((i for i, size in enumerate(batch) if size != 1), len(batch)) :]
    return max(len(batch), *plates, 0)


def nesting_of(traces: Traces) -> int:
    """Return how many dimensions the batches and the plates of a run have at most."""
    return max((width(node) for trace in traces for node in trace.values()), default=0)


def along(name: str, size: int, nesting: int, program: Callable[[], T]) -> T:
    """Run a program within a plate of this name, to the left of `nesting` dimensions.

    There must be a recording around it.

    Raises:
        PlateError: if a site has not one value for each repetition, or mixes them.
        SiteError: if Python reads a value that differs among them.
    """
    around = current()
    assert around is not None
    noted = decisions_of(around.universe).noted
    before, ledger = len(noted), ledger_of(around.universe)

    def refuse_escapes(cause: Exception | None) -> None:
        for each in noted[before:]:
            if any(ledger.reaches(source, name) for source in each.sources):
                raise SiteError(
                    f"at {each.escape.filename}:{each.escape.line} Python reads a value that "
                    "differs from run to run, and may decide by it for all of them; decide with "
                    "tensors (torch.where)"
                ) from cause

    with plate(name, size, dim=-1 - nesting):
        try:
            found = program()
        except Exception as error:
            refuse_escapes(error)
            raise
    refuse_escapes(None)
    return found


def apart(found: Provenance | None, name: str) -> frozenset[int] | None:
    """Return which dimensions of a tensor index a plate; None if nothing in it reaches it.

    Its recording must not be settled.
    """
    return None if found is None else ledger_of(found.universe).apart(found, name)


def ledger_of(universe: Universe) -> Ledger:
    """Return how the sources of a recording that is open, or was, stand to its plates."""
    assert isinstance(universe.owner, Trace)
    return universe.owner.ledger
