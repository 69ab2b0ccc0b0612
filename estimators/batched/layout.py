"""Layouts of runs: in turn or along an outer dimension, and how values are read of each.

>>> import torch
>>> Layout(samples=5, turn=2).given(torch.arange(5), event=0)  # the third run alone
tensor(2)
>>> Layout(samples=5, nesting=2).given(torch.arange(5), event=0).shape  # all of them
torch.Size([5, 1, 1])
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ancestral.estimators.batched.outer_plate import Traces, ledger_of
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.node import Node

OUTER = "the runs of a vectorized program"


class EnumeratedRunError(SiteError):
    """A program is to be drawn many times, and enumerates a site."""

    def __init__(self, node: Node) -> None:
        """Name the site and its line."""
        super().__init__(
            f"site {node.name!r} ({node.location}) is enumerated, or depends on one that is; runs "
            "of a program need draws of it: take the enumeration away"
        )


@dataclass(frozen=True)
class Layout:
    """How the runs of a program lie.

    Attributes:
        samples: how many there are.
        nesting: how many dimensions of a batch belong to one run.
        turn: the number of this run; None where all run at once.
    """

    samples: int
    nesting: int = 0
    turn: int | None = None

    def given(self, stacked: Tensor, event: int) -> Tensor:
        """Return what this run takes of values [samples, *batch, *event], to broadcast with it."""
        if self.turn is not None:
            return stacked[self.turn]
        missing = self.nesting - (stacked.dim() - 1 - event)
        return stacked.reshape(len(stacked), *(1,) * missing, *stacked.shape[1:])


Program = Callable[[Layout], Traces]
"""Runs a program as a layout says, and returns its traces, parts of one recording."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a program, or many at once; `single` are the traces of one."""

    traces: Traces
    single: Traces
    layout: Layout

    def __post_init__(self) -> None:
        """Refuse sites that take all their values at once: they are no draws."""
        for node in (node for trace in self.traces for node in trace.values()):
            if node.enumeration is not None:
                raise EnumeratedRunError(node)

    def value(self, node: Node) -> Tensor:
        """Return the value of a node: [*shape] of one run, [samples, *shape] of many."""
        value = untrack(node.value).detach()
        if self.layout.turn is not None:
            return value
        shape = self._single(node).value.shape
        if tuple(value.shape) == tuple(shape) and not is_of_runs(node):
            return value.expand(self.layout.samples, *shape)
        return value.reshape(self.layout.samples, *shape)

    def pointwise(self, node: Node) -> Tensor:
        """Return the log-probability that counts, [*batch] of one run, [samples, *batch] of many.

        It is masked, and not scaled.
        """
        density = untrack(node.masked_log_prob).detach()
        if self.layout.turn is not None:
            return density
        return density.reshape(self.layout.samples, *self._single(node).masked_log_prob.shape)

    def total(self, node: Node) -> Tensor:
        """Return the log-probability as it counts: [] of one run, [samples] of many."""
        density = untrack(node.log_prob).detach()
        if self.layout.turn is not None:
            return density.sum()
        return density.reshape(self.layout.samples, -1).sum(1)

    def _single(self, node: Node) -> Node:
        return next(
            one[node.name]
            for many, one in zip(self.traces, self.single, strict=True)
            if many.get(node.name) is node
        )


def is_of_runs(node: Node) -> bool:
    """Return whether a value differs from run to run."""
    if node.type != "deterministic":
        return True
    assert node.source.universe is not None
    return ledger_of(node.source.universe).apart(node.param_provenance, OUTER) is not None
