"""Recording: the ordered record of one run, and the block during which draws are caught.

>>> import torch
>>> from torch.distributions import Bernoulli
>>> with record() as trace:
...     z = Bernoulli(torch.tensor([0.2, 0.7])).sample()
>>> list(trace), trace["z"].shape
(['z'], (2,))
"""

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, overload

import torch
from torch import Tensor

from ancestral.provenance.algebra import Provenance, Universe
from ancestral.provenance.control import (
    SETTINGS,
    Escape,
    Setting,
    decisions_of,
    escapes_of,
    recording,
    setting,
)
from ancestral.provenance.tensor import track as track_in
from ancestral.trace.audit import Audited, Auditor
from ancestral.trace.claims import Ledger
from ancestral.trace.compiled import leave_compiled_code, leaving_compiled_code
from ancestral.trace.endings import note_end
from ancestral.trace.errors import SiteError, UnknownNodeError
from ancestral.trace.factor import shown_shape
from ancestral.trace.graph import Graph, Vertex, graph_of
from ancestral.trace.independence import Extent
from ancestral.trace.interceptors import interceptors, joined
from ancestral.trace.naming import Location
from ancestral.trace.node import Node
from ancestral.trace.recorded import Recorded
from ancestral.trace.request import Handler, Request
from ancestral.trace.spread import Spread
from ancestral.trace.stack import local
from ancestral.trace.tables import aligned
from ancestral.trace.transcript import Transcript
from ancestral.trace.versions import Leaf

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class DuplicateNameError(SiteError):
    """Two declarations of one run have the same name."""

    def __init__(self, name: str, first: object, second: object) -> None:
        """Name both places."""
        super().__init__(
            f"{name!r} is declared twice in one recording, at {first} and at {second}; expected "
            f"a name of its own for each, for example f'{name}_{{i}}' in a loop"
        )


_backward: list[Callable[..., None]] = []


def install_backward(function: Callable[..., None]) -> None:
    """Say what `Trace.backward` does; the estimators do, which this layer does not know."""
    _backward[:] = [function]


_explain: list[Callable[..., Any]] = []


def install_explain(function: Callable[..., Any]) -> None:
    """Say what `Trace.explain` does; the estimators do, which this layer does not know."""
    _explain[:] = [function]


class Trace(Transcript):
    """The nodes of one run by name, in program order; readable while the run goes on."""

    def __init__(self, universe: Universe | None = None) -> None:
        """Make an empty trace, in a universe of its own unless it is part of another recording."""
        self._nodes: dict[str, Node] = {}
        self._hidden: dict[str, Node] = {}
        self._order: list[str] = []
        self._counts: dict[str, int] = {}
        self._costs: tuple[tuple[Vertex, Provenance], ...] = ()
        self.ledger = Ledger()
        # By the name of a site, the line that adds nothing to its value, and a gradient.
        self.straight_through: dict[str, Location] = {}
        self.account: Any = None  # what an explanation needs of the last gradient
        self.audited: Audited | None = None  # set when a recording with an audit ends
        self.leaves: tuple[tuple[Node, Leaf], ...] = ()  # what scores are computed from
        self._lock = threading.Lock()
        self.is_open = False
        self.is_loaded = False
        self.universe = Universe(owner=self) if universe is None else universe

    # Two traces with the same nodes are two recordings still.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __getitem__(self, name: str) -> Node:
        """Return the node with this name.

        Raises:
            UnknownNodeError: if there is none, which is a KeyError too.
        """
        try:
            return self._nodes[name]
        except KeyError:
            raise UnknownNodeError(name, self._nodes) from None

    def __contains__(self, name: object) -> bool:
        """Return whether there is a node of this name."""
        return name in self._nodes

    @overload
    def get(self, name: str, /) -> Node | None: ...
    @overload
    def get(self, name: str, /, default: Node | T) -> Node | T: ...
    def get(self, name: str, /, default: Any = None) -> Any:
        """Return the node with this name, `default` where there is none."""
        return self._nodes.get(name, default)

    def __iter__(self) -> Iterator[str]:
        """Yield the names in program order."""
        return iter(self._nodes)

    def __len__(self) -> int:
        """Return the number of nodes."""
        return len(self._nodes)

    @property
    def escapes(self) -> tuple[Escape, ...]:
        """The places where a tracked value left tensor land, so that Python may have branched.

        Once a gradient was asked for, each tells how many terms of the loss it blurred.
        """
        return escapes_of(self.universe)

    @property
    def graph(self) -> Graph:
        """Who depends on whom, directly; the costs of a loss too, once its gradient was asked.

        Draws that a handler hid from the trace are in it: what they connect is not independent.
        """
        return graph_of(self.everything, self._costs)

    @property
    def plates(self) -> tuple[Extent, ...]:
        """The plates, declared or found, with the dimensions of sites and costs in each."""
        return self.graph.plates

    def log_prob_sum(self, site_filter: Callable[[Node], bool] = lambda _: True) -> Tensor:
        """Return the sum of the log-probabilities of the sites that the filter lets through.

        Each counts as its mask and scale say: within a subsampled plate, for the whole of it.

        Raises:
            EnumerationError: if one is enumerated, or there once for each value of a site that is;
                see `ancestral.log_marginal`.
        """
        sites = [n for n in self.values() if n.type == "sample" and site_filter(n)]
        Spread(self).refuse(sites, "the sum of the log-probabilities")
        return sum((n.log_prob_sum for n in sites), torch.zeros(()))

    @property
    def everything(self) -> tuple[Node, ...]:
        """The nodes in program order, also those that a handler hid: their scores count."""
        known = self._nodes | self._hidden if self._hidden else self._nodes
        return tuple([known[name] for name in self._order])

    @property
    def stochastic_nodes(self) -> list[Node]:
        """The random choices that are no data, in program order."""
        return [node for node in self.values() if node.is_stochastic]

    @property
    def observation_nodes(self) -> list[Node]:
        """The sites whose value is data, in program order."""
        return [node for node in self.values() if node.type == "sample" and node.is_observed]

    @property
    def reparameterized_nodes(self) -> list[Node]:
        """The random choices whose value is differentiable in its parameters."""
        return [node for node in self.stochastic_nodes if node.is_reparameterized]

    @property
    def param_nodes(self) -> list[Node]:
        """The parameters, in the order in which they were asked for first."""
        return [node for node in self.values() if node.type == "param"]

    def backward(self, **options: Any) -> None:
        """Accumulate the gradient of the expected sum of the costs declared with `an.cost`.

        Those within a subsampled plate count as often as `Node.scale` says.
        """
        _backward[0](self, **options)

    def explain(self, loss: Tensor | None = None) -> Any:
        """Explain for every site which dimensions of its credit stay apart, and what mixed others.

        The text of the result is a table, the most expensive dimensions first, each with the ops
        and lines that mixed it; see `ancestral.explain`.

        Args:
            loss: the loss. Without it, that of the last gradient, else the declared costs.
        """
        return _explain[0](self, loss)

    def copy(self) -> "Trace":
        """Return a trace with the same nodes, which later recording leaves as it is."""
        twin = Trace(self.universe)
        twin._nodes = dict(self._nodes)
        twin._hidden = dict(self._hidden)
        twin._order = list(self._order)
        twin._counts = dict(self._counts)
        twin._costs = self._costs
        return twin

    def fresh_name(self, base: str) -> str:
        """Return `base`, or `base_1`, `base_2` ... where it is taken."""
        with self._lock:  # threads that share a recording draw at once
            count = self._counts.get(base, 0)
            while True:
                name = base if count == 0 else f"{base}_{count}"
                count += 1
                if name not in self._nodes:
                    self._counts[base] = count
                    return name

    def note_costs(self, costs: Sequence[tuple[Vertex, Provenance]]) -> None:
        """Keep the terms of a loss for the graph."""
        self._costs = tuple(costs)

    def add(self, node: Node) -> None:
        """Append a node.

        Raises:
            DuplicateNameError: if its name is taken.
        """
        self._refuse_taken(node)
        self._nodes[node.name] = node
        self._order.append(node.name)

    def _refuse_taken(self, node: Node) -> None:
        known = self._nodes.get(node.name) or self._hidden.get(node.name)
        if known is not None:
            raise DuplicateNameError(node.name, known.location, node.location)

    def hide(self, node: Node) -> None:
        """Take in a draw that is not to be seen: its score counts, under a name of its own."""
        self._refuse_taken(node)
        self._hidden[node.name] = node
        self._order.append(node.name)

    def __str__(self) -> str:
        """Show the nodes as an aligned table."""
        header = ("name", "distribution", "shape", "parents", "where")
        rows = [
            (
                node.name,
                ("" if node.fn is None else type(node.fn).__name__)
                + (" (observed)" if node.is_observed else "")
                + ("cost" if node.type == "cost" else ""),
                str(list(shown_shape(node.fn, node.value))),
                ", ".join(sorted(node.parents)) or "-",
                str(node.location),
            )
            for node in self.values()
        ]
        return aligned([header, *rows])

    def __repr__(self) -> str:
        """Show the names."""
        return f"Trace({', '.join(self._nodes)})"


def current() -> Trace | None:
    """Return the innermost open recording of this thread."""
    return local.traces[-1] if local.traces else None


class record:  # noqa: N801 (used as a verb: with record() as trace)
    """Catch every draw of the block in a trace.

    Inside another recording, draws go into both traces, which share their sources: a gradient
    always sees the outermost one. Threads and tasks that are started in the block take part.

    `control` says what an escape does, a value that leaves tensor land so that Python may branch on
    it:

    - "strict" (the default): all that is drawn or computed afterwards depends on the value, and all
      terms of a loss that were not declared with `cost` by then. Always unbiased.
    - "after": only what is drawn or computed afterwards. Unbiased if the terms that are finished by
      then count regardless of the value, each with its weight. A rollout whose episode may end has
      reward-to-go by itself.
    - "error": an escape raises `EscapeError`.
    - "ignore": an escape is listed in `Trace.escapes` only. Unbiased if no decision follows.

    Within another recording the default is that one's.

    `audit` follows every op of the block a second time, below the tensors: through scripted code,
    backward passes, custom ops and shared memory. It is slow, and for finding out once whether a
    model does anything that the recording loses; where it does, `AuditError` names the op and the
    line. It sees what this thread does within the block; `Trace.audited` says how much that was.
    (`torch.jit.trace` does not run below a mode of the dispatcher: trace before the block.)

    ``record()(function)`` is the function, recorded anew at each call: ``.trace`` is the recording
    of the last one, and ``.get_trace(...)`` calls and returns it.
    """

    def __init__(self, *, control: str | None = None, audit: bool = False) -> None:
        """Make a recording that has not begun.

        Raises:
            ValueError: if `control` is none of the four.
        """
        self._control = control
        self._setting = None if control is None else setting(control)
        self._trace: Trace | None = None
        self._is_audited = audit
        self._auditor: Auditor | None = None
        self._ending = ExitStack()

    @leaving_compiled_code
    def __enter__(self) -> Trace:
        """Begin, and return the trace."""
        leave_compiled_code()
        if self._trace is not None:
            raise RuntimeError("this recording has already been used; make a new one: an.record()")
        outer = current()
        self._trace = trace = Trace(None if outer is None else outer.universe)
        with ExitStack() as ending:
            ending.callback(local.pop, trace)
            trace.is_open = True
            local.push(trace)
            for interceptor in interceptors:
                interceptor.enter()
                ending.callback(interceptor.leave)
            ending.enter_context(_Recorder(trace))
            ending.enter_context(_governed(trace.universe, self._setting, outer is None))
            ending.enter_context(joined())
            if self._is_audited and local.audit is None:
                self._auditor = Auditor(trace.universe)
                ending.callback(self._auditor.end)
                self._auditor.begin()
            self._ending = ending.pop_all()
        return trace

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End, and leave torch as it was; the trace stays readable."""
        trace = self._trace
        if trace is not None and trace.universe.owner is trace:
            note_end(trace)
        try:
            if self._auditor is not None and self._trace is not None and error is None:
                self._trace.audited = self._auditor.finish()
        finally:
            self._ending.close()

    def __call__(self, function: Callable[P, R]) -> Recorded[P, R]:
        """Return the function, each call of it within a recording of its own."""
        return Recorded(function, lambda: record(control=self._control, audit=self._is_audited))


class _Recorder(Handler):
    """Lets a trace see the requests of its block."""

    is_recorder = True

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def ask(self, request: Request) -> Request:
        """Add the trace to those that have seen the request."""
        if not self._trace.is_open:
            return request
        return replace(request, traces=(self._trace, *request.traces))


@contextmanager
def _governed(universe: Universe, chosen: Setting | None, is_outermost: bool) -> Generator[None]:
    """Let a setting decide what an escape does within a recording."""
    decisions = decisions_of(universe)
    before = decisions.setting
    decisions.setting = before if chosen is None else chosen
    if is_outermost:
        decisions.is_recording = True
        recording.set(universe)
    try:
        yield
    finally:
        if is_outermost:
            decisions.is_recording = False
            if decisions.setting.raises:  # what was recorded works as data from now on
                decisions.setting = SETTINGS["strict"]
            if recording.get() is universe:
                recording.set(None)
        else:
            decisions.setting = before


def track(tensor: Tensor, name: str) -> Tensor:
    """Return `tensor` as a source of its own, called `name`, within the open recording if any.

    The result shares the data and the autograd history; what is computed from it has `name` in its
    provenance, and dimensions that still index those of `tensor` are known to.

    Raises:
        TypeError: if `tensor` is no tensor.
    """
    outermost = local.traces[0] if local.traces else None
    return track_in(tensor, name, None if outermost is None else outermost.universe)
