"""Trace: the ordered record of one run, and its tables, vectors and files.

>>> import torch
>>> from torch.distributions import Bernoulli
>>> from ancestral.trace.recording.record import record
>>> with record() as trace:
...     z = Bernoulli(torch.tensor([0.2, 0.7])).sample()
>>> list(trace), trace["z"].shape
(['z'], (2,))
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, ValuesView
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypeVar, overload

import torch
from torch import Tensor

from ancestral.provenance.algebra.provenance import Provenance, Universe
from ancestral.provenance.tensor.control_flow import Escape, escapes_of
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.audit.tables import Audited
from ancestral.trace.context.errors import SiteError, unknown_node
from ancestral.trace.context.place import Location
from ancestral.trace.display.compare import Comparison, compare
from ancestral.trace.display.flat_vector import pack, unpack
from ancestral.trace.display.plates import Plates
from ancestral.trace.display.shapes import format_shapes
from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.graph.graph import Graph, Vertex, graph_of
from ancestral.trace.nodes.distribution_params import family_name
from ancestral.trace.nodes.factor import shown_shape
from ancestral.trace.nodes.generator_noise import Noise
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.versions import Leaf
from ancestral.trace.recording.enumerated_log_prob import Spread
from ancestral.trace.recording.plate_checks import Ledger
from ancestral.trace.serialize.file import load, save
from ancestral.trace.serialize.nodes import Content, from_dict, to_dict

T = TypeVar("T")


_backward: list[Callable[..., None]] = []


def install_backward(function: Callable[..., None]) -> None:
    """Say what `Trace.backward` does; the estimators do, which this layer does not know."""
    _backward[:] = [function]


_explain: list[Callable[..., Any]] = []


def install_explain(function: Callable[..., Any]) -> None:
    """Say what `Trace.explain` does; the estimators do, which this layer does not know."""
    _explain[:] = [function]


class Trace(Mapping[str, Node], Tabular):
    """The nodes of one run by name, in program order; readable while the run goes on."""

    _costs: tuple[tuple[Vertex, Provenance], ...] = ()
    account: Any = None  # what an explanation needs of the last gradient
    audited: Audited | None = None  # set when a recording with an audit ends
    leaves: tuple[tuple[Node, Leaf], ...] = ()  # what scores are computed from
    # The randomness without parameters, None where the recording was not asked for it.
    noise: list[Noise] | None = None
    is_open = has_ended = is_loaded = False
    around: "Trace | None" = None  # the recording whose sources these are, if it is another
    begun = 0  # how many recordings of its sources, it too, have not ended

    def __init__(self, universe: Universe | None = None) -> None:
        """Make an empty trace, in its own universe unless it is part of another recording."""
        self._nodes: dict[str, Node] = {}
        self._hidden: dict[str, Node] = {}
        self._order: list[str] = []
        self._counts: dict[str, int] = {}
        self.ledger = Ledger()
        # By the name of a site, the line that adds nothing to its value, and a gradient.
        self.straight_through: dict[str, Location] = {}
        self._lock = threading.Lock()
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
            raise unknown_node(name, self._nodes) from None

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

    def values(self) -> ValuesView[Node]:
        """Return the nodes in program order."""
        return self._nodes.values()

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

        Noise is in it if the recording was asked for that: ``record(noise=True)``.

        Draws that a handler hid from the trace are in it: what they connect is not independent.
        """
        return graph_of(self.everything, self._costs, self.noise)

    @property
    def plates(self) -> Plates:
        """The plates, declared or found, with the dimensions of sites and costs in each."""
        return Plates(self.graph.plates)

    def log_prob_sum(self, site_filter: Callable[[Node], bool] = lambda _: True) -> Tensor:
        """Return the sum of the log-probabilities of the sites that the filter lets through.

        Each counts as its mask and scale say: within a subsampled plate, for the whole of it.

        Raises:
            EnumerationError: if one is enumerated, or there once for each value of a site that is;
                see `ancestral.infer.log_marginal`.
        """
        sites = [n for n in self.values() if n.type == "sample" and site_filter(n)]
        Spread(self).refuse(sites, "the sum of the log-probabilities")
        return sum((n.log_prob_sum for n in sites), torch.zeros(()))

    @property
    def everything(self) -> tuple[Node, ...]:
        """The nodes in program order, also those that a handler hid: their scores count."""
        known = self._nodes | self._hidden if self._hidden else self._nodes
        return tuple(map(known.__getitem__, self._order))

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
        twin.noise = None if self.noise is None else list(self.noise)
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

    def add(self, node: Node, *, is_hidden: bool = False) -> None:
        """Append a node; of a draw that is not to be seen, the score counts, under its own name.

        Raises:
            SiteError: if its name is taken.
        """
        known = self._nodes.get(node.name) or self._hidden.get(node.name)
        if known is not None:
            raise SiteError(
                f"{node.name!r} is declared twice in one recording, at {known.location} and at "
                f"{node.location}; expected its own name for each, for example "
                f"f'{node.name}_{{i}}' in a loop"
            )
        (self._hidden if is_hidden else self._nodes)[node.name] = node
        self._order.append(node.name)

    def revise(self, nodes: Mapping[str, Node]) -> None:
        """Put other nodes in the places of those with their names, which it may not have."""
        for name, node in nodes.items():
            for known in (self._nodes, self._hidden):
                if name in known:
                    known[name] = node

    def table(self) -> Table:
        """Return a row for each node."""
        header = ("name", "distribution", "shape", "parents", "where")
        rows = [
            (
                node.name,
                family_name(node.fn)
                + (" (observed)" if node.is_observed else "")
                + ("cost" if node.type == "cost" else ""),
                str(list(shown_shape(node.fn, node.value))),
                ", ".join(sorted(node.parents)) or "-",
                str(node.location),
            )
            for node in self.values()
        ]
        return Table(header, rows)

    def __repr__(self) -> str:
        """Show the names."""
        return f"Trace({', '.join(self._nodes)})"

    def format_shapes(self) -> str:
        """Return the shapes of all sites, parameters and plates as an aligned table.

        Of each distribution batch and event, with a bar between them, of each value too, and the
        shape of the log-probability.
        """
        return format_shapes(self)

    def topological_order(self) -> tuple[str, ...]:
        """Return the names of sites and costs, each after its parents."""
        return self.graph.topological_order()

    def detach_(self) -> Self:
        """Cut the values of the sites off from how they were computed, in place; return the trace.

        No pathwise gradient goes through them any more. Parameters keep theirs, and so do costs;
        what a value depends on stays known, so that scores count.
        """
        for name, node in self._nodes.items():
            if node.type == "sample":
                self._nodes[name] = replace(node, value=detach(node.value))
        return self

    def pack(self, names: Iterable[str] | None = None) -> Tensor:
        """Return values as one vector, [size], of the dtype that theirs promote to.

        Args:
            names: the nodes, in this order; by default the free random choices.

        Raises:
            SiteError: if there is no such node, or the dtype cannot hold a value.
        """
        return pack(self, names)

    def unpack(self, vector: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the values that are packed in a vector, by name, in the shapes of this trace.

        Args:
            vector: what `pack` returns, or another of its size.
            names: as for `pack`.

        Raises:
            SiteError: if the vector is no tensor or has another size, or the dtype of a site cannot
                hold its part.
        """
        return unpack(self, vector, names)

    def compare(self, other: Mapping[str, Node]) -> Comparison:
        """Return in what this trace and another differ; its text is an aligned table.

        Raises:
            TypeError: if `other` is no trace.
        """
        return compare(self, other)

    def to_dict(self) -> dict[str, Any]:
        """Return the trace as dictionaries, lists, tuples, texts, numbers and tensors.

        A distribution of torch is stored with its parameters, of another the name of its class and
        the log-probability of the value; so is one of which a parameter was written into after the
        draw. Left out are the history of gradients, escapes, and what is no plain data in the
        `infer` of a site.

        Raises:
            SiteError: if a site is enumerated, or a tensor of it has not all its numbers.
        """
        return to_dict(self._content())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the trace of such dictionaries; to a recording, its values are constants.

        Raises:
            StoredTraceError: if it is none.
        """
        return cls()._filled(from_dict(data))

    def save(self, path: str | Path) -> None:
        """Write the trace into a file, as `to_dict` tells; no code is stored.

        What was at `path` before stays if that fails.

        Raises:
            OSError: if the path cannot be written.
        """
        save(self._content(), path)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Return the trace of a file, its tensors on the CPU; no code of the file is run.

        Raises:
            StoredTraceError: if the file holds no trace, or was damaged.
            OSError: if it cannot be read.
        """
        return cls()._filled(load(path))

    @classmethod
    def from_pyro(cls, trace: Any) -> Self:
        """Return a trace of Pyro as one of this library, whose values are constants."""
        from ancestral.trace.serialize.pyro_trace import from_pyro  # which imports Pyro

        return cls()._filled(from_pyro(trace))

    def to_pyro(self) -> Any:
        """Return the trace as a ``pyro.poutine.Trace``, to be replayed or scored there."""
        from ancestral.trace.serialize.pyro_trace import to_pyro

        return to_pyro(self.values())

    def _content(self) -> Content:
        """Return all that is stored of the trace."""
        return Content(self.universe, self.everything, tuple(self._hidden), self._costs)

    def _filled(self, content: Content) -> Self:
        """Take what was stored into this empty trace."""
        self.universe = content.universe
        self.universe.owner = self
        self.is_loaded = True
        named = {node.name: node for node in content.nodes}
        self._order = list(named)
        self._hidden = {name: node for name, node in named.items() if name in content.hidden}
        self._nodes = {name: node for name, node in named.items() if name not in content.hidden}
        self._costs = content.costs
        return self
