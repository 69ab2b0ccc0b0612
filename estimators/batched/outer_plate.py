"""Outer plate: the leftmost dimension, along which a program runs many times at once.

A program that broadcasts needs no change for it. That its repetitions stay apart is not taken on
trust: the plate checks the alignments of all that is within it, and Python may read no value that
differs among them.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> def program():
...     with record() as trace:
...         z = sample("z", Normal(torch.zeros(2), 1.0))
...         sample("x", Normal(z, 1.0), obs=torch.tensor(0.5))
...     return (trace,)
>>> nesting = nesting_of(program())
>>> with record():
...     traces = along("runs", 5, nesting, program)
>>> [node.fn.batch_shape for node in traces[0].values()]
[torch.Size([5, 2]), torch.Size([5, 2])]
"""

from collections.abc import Callable

from ancestral.provenance.algebra.provenance import Universe
from ancestral.provenance.tensor.control_flow import decisions_of
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.enumerated import trailing
from ancestral.trace.nodes.node import Node
from ancestral.trace.program.plate import plate
from ancestral.trace.recording.plate_checks import Ledger
from ancestral.trace.recording.record import current
from ancestral.trace.recording.trace import Trace

Traces = tuple[Trace, ...]


class OuterEscapeError(SiteError):
    """Python reads a value that differs among the repetitions of an outer plate."""

    def __init__(self, place: str) -> None:
        """Name the line."""
        super().__init__(
            f"at {place} Python reads a value that differs from run to run, and may decide by it "
            "for all of them; decide with tensors (torch.where)"
        )


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


def along(name: str, size: int, nesting: int, program: Callable[[], Traces]) -> Traces:
    """Run a program within a plate of this name, to the left of `nesting` dimensions.

    There must be a recording around it.

    Raises:
        PlateError: if a site has not one value for each repetition, or mixes them.
        OuterEscapeError: if Python reads a value that differs among them.
    """
    around = current()
    assert around is not None
    before = len(decisions_of(around.universe).noted)
    with plate(name, size, dim=-1 - nesting):
        try:
            traces = program()
        except Exception as error:
            _refuse_escapes(around.universe, before, name, error)
            raise
    _refuse_escapes(around.universe, before, name)
    return traces


def _refuse_escapes(
    universe: Universe, before: int, name: str, cause: Exception | None = None
) -> None:
    """Raise if a value escaped that is in a plate of this name; `before` are those of before."""
    for noted in decisions_of(universe).noted[before:]:
        if any(ledger_of(universe).reaches(source, name) for source in noted.sources):
            place = f"{noted.escape.filename}:{noted.escape.line}"
            raise OuterEscapeError(place) from cause


def ledger_of(universe: Universe) -> Ledger:
    """Return how the sources of a recording that is open, or was, stand to its plates."""
    assert isinstance(universe.owner, Trace)
    return universe.owner.ledger
