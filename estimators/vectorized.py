"""Vectorized runs: many runs of a program at once, along the dimension of an outer plate.

The plate lies to the left of all dimensions that one run of the program has, so that a program that
broadcasts needs no change. Whether it does is not taken on trust. The recording proves that no run
depends on another (a plate checks alignments, and no value may escape); no random numbers may be
drawn outside the sites; and one run by itself, at the values that it has among the others, must
give the same log-probabilities. What fails any of these is refused.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.primitives import sample
>>> from ancestral.trace.record import record
>>> def program(layout):
...     with record() as trace:
...         z = sample("z", Normal(torch.zeros(2), 1.0))
...         sample("x", Normal(z, 1.0), obs=torch.tensor(0.5))
...     return (trace,)
>>> run = at_once(program, samples=5)
>>> run.traces[0]["z"].value.shape, run.value(run.traces[0]["z"]).shape
(torch.Size([5, 2]), torch.Size([5, 2]))
>>> run.total(run.traces[0]["x"]).shape
torch.Size([5])
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ancestral.provenance.tensor import provenance, untrack
from ancestral.trace.claims import Ledger
from ancestral.trace.errors import SiteError
from ancestral.trace.node import Node
from ancestral.trace.randomness import Watch
from ancestral.trace.record import Trace
from ancestral.trace.repetitions import plate
from ancestral.trace.request import Handler, Request

OUTER = "the runs of a vectorized program"


class NotVectorizableError(SiteError):
    """A program cannot be run many times at once along the dimension of an outer plate."""

    def __init__(self, problem: str) -> None:
        """Say what is in the way."""
        super().__init__(
            f"the program cannot be run many times at once: {problem}; write it so that it "
            "broadcasts over dimensions to the left (negative dims, no positions counted from the "
            "left), or run it one time after the other with vectorized=False"
        )


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


Program = Callable[[Layout], tuple[Trace, ...]]
"""Runs a program as a layout says, and returns its traces."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a program, or many at once; `single` are the traces of one."""

    traces: tuple[Trace, ...]
    single: tuple[Trace, ...]
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
        if tuple(value.shape) == tuple(shape) and not _is_of_runs(node):
            return value.expand(self.layout.samples, *shape)
        return value.reshape(self.layout.samples, *shape)

    def pointwise(self, node: Node) -> Tensor:
        """Return the log-probability that counts, [*batch] of one run, [samples, *batch] of many.

        It is masked, and not scaled.
        """
        density = untrack(node.unscaled_log_prob).detach()
        if node.mask is not None:
            density = torch.where(untrack(node.mask), density, 0)
        if self.layout.turn is not None:
            return density
        return density.reshape(self.layout.samples, *self._single(node).unscaled_log_prob.shape)

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


def nesting_of(traces: tuple[Trace, ...]) -> int:
    """Return how many dimensions the batches and the plates of a run have at most."""
    nodes = [node for trace in traces for node in trace.values()]
    batches = (len(node.fn.batch_shape) for node in nodes if node.fn is not None)
    plates = (-p.dim for node in nodes for p in node.cond_indep_stack if p.dim is not None)
    return max((*batches, *plates), default=0)


def at_once(program: Program, samples: int) -> Run:
    """Run a program many times at once, at least twice.

    Raises:
        NotVectorizableError: if the runs were not those that single runs would have been.
        PlateError: if they depend on each other.
    """
    first = program(Layout(samples, turn=0))
    layout = Layout(samples, nesting_of(first))
    watch = Watch()
    with watch, plate(OUTER, samples, dim=-layout.nesting - 1):
        many = program(layout)
    if watch.has_drawn:
        raise NotVectorizableError("it draws random numbers outside its sites")
    for trace in many:
        _refuse_escapes(trace)
    last = samples - 1
    with _Given(many, first, layout, last):
        single = program(replace(layout, turn=last))
    run = Run(many, single, layout)
    for trace, other, one in zip(many, first, single, strict=True):
        _check(run, trace, other, one)
    return run


class _Given(Handler):
    """Gives a single run the values that it has among the others."""

    def __init__(
        self, many: tuple[Trace, ...], first: tuple[Trace, ...], layout: Layout, turn: int
    ) -> None:
        self._many, self._layout, self._turn = many, layout, turn
        self._first = first

    def ask(self, request: Request) -> Request:
        """Give a site its value, and a plate its indices."""
        if request.value is not None or request.is_intervened:
            return request
        for trace, first in zip(self._many, self._first, strict=True):
            node, shown = trace.get(request.name), first.get(request.name)
            if node is None or shown is None or node.type != request.kind:
                continue
            if request.kind == "plate":
                return replace(request, value=node.value, origin=node)
            if request.kind == "sample" and node.value.shape[:1] == (self._layout.samples,):
                value = untrack(node.value).detach()[self._turn]
                if value.numel() == shown.value.numel():
                    return replace(request, value=value.reshape(shown.value.shape))
        return request


def _refuse_escapes(trace: Trace) -> None:
    for escape in trace.escapes:
        raise NotVectorizableError(
            f"at {escape.filename}:{escape.line} Python reads a value that differs from run to run"
        )


def _check(run: Run, many: Trace, first: Trace, single: Trace) -> None:
    """Raise unless many runs at once are what single runs are."""
    if not (list(many) == list(first) == list(single)):
        odd = next(iter({*many} ^ {*single} or {*many} ^ {*first}), "in another order")
        raise NotVectorizableError(f"its runs differ in their sites: {odd!r}")
    for name, node in many.items():
        one = single[name]
        if node.type == "sample":
            _check_site(run, node, one, first[name])
        elif node.type == "deterministic":
            _check_value(run, node, one)


def _check_site(run: Run, node: Node, one: Node, first: Node) -> None:
    assert node.fn is not None
    assert one.fn is not None
    assert first.fn is not None
    batch, event = one.fn.batch_shape, one.fn.event_shape
    ones = (1,) * (run.layout.nesting - len(batch))
    expected = (run.layout.samples, *ones, *batch)
    if (
        tuple(node.fn.batch_shape) != expected
        or node.fn.event_shape != event
        or (first.fn.batch_shape, first.fn.event_shape) != (batch, event)
        or tuple(node.value.shape) != (*expected, *event)
        or type(node.fn) is not type(one.fn)
    ):
        raise NotVectorizableError(
            f"site {node.name!r} ({node.location}) has batch {list(node.fn.batch_shape)} and event "
            f"{list(node.fn.event_shape)}; expected {list(expected)} and {list(event)}"
        )
    shape = tuple(node.unscaled_log_prob.shape)
    if shape != expected or not _is_apart(node, node.tracked_log_prob):
        raise NotVectorizableError(
            f"the log-probability of site {node.name!r} ({node.location}), of shape {list(shape)}, "
            "mixes the runs"
        )
    density = untrack(node.log_prob).detach()[-1]
    _same(node, density, untrack(one.log_prob).detach().reshape(density.shape))
    _same(node, untrack(node.value).detach()[-1], untrack(one.value).detach())


def _check_value(run: Run, node: Node, one: Node) -> None:
    shape = tuple(one.value.shape)
    if not _is_of_runs(node):
        if tuple(node.value.shape) != shape:
            raise NotVectorizableError(f"{node.name!r} ({node.location}) gets another shape")
        return _same(node, untrack(node.value).detach(), untrack(one.value).detach())
    fits = tuple(node.value.shape)[:1] == (run.layout.samples,) and (
        math.prod(node.value.shape) == run.layout.samples * math.prod(shape)
    )
    if not fits or not _is_apart(node, node.tracked_value):
        raise NotVectorizableError(f"{node.name!r} ({node.location}) mixes the runs")
    return _same(node, untrack(node.value).detach()[-1], untrack(one.value).detach())


def _is_of_runs(node: Node) -> bool:
    """Return whether a value differs from run to run."""
    if node.type != "deterministic":
        return True
    return _ledger(node).apart(node.inflow, OUTER) is not None


def _is_apart(node: Node, tensor: Tensor) -> bool:
    """Return whether elements n of a tensor, [samples, ...], depend on run n alone."""
    found = _ledger(node).apart(provenance(tensor), OUTER)
    return found is None or 0 in found


def _ledger(node: Node) -> Ledger:
    owner = node.source.universe.owner if node.source.universe is not None else None
    assert isinstance(owner, Trace)
    return owner.ledger


def _same(node: Node, among: Tensor, alone: Tensor) -> None:
    """Raise unless what a run has among others is what it has alone, but for rounding."""
    among = among.reshape(alone.shape)
    if not among.dtype.is_floating_point:
        is_same = torch.equal(among, alone)
    else:
        finite = alone[alone.isfinite()].abs()
        tolerance = math.sqrt(torch.finfo(among.dtype).eps)
        largest = 1 + (float(finite.max()) if finite.numel() else 0.0)
        is_same = torch.allclose(
            among, alone.to(among.dtype), rtol=0, atol=tolerance * largest, equal_nan=True
        )
    if not is_same:
        raise NotVectorizableError(
            f"at {node.name!r} ({node.location}) a run among others is not what it is alone"
        )
