"""Transcript: what can be made of a trace once it is there, each thing in a file of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from ancestral.provenance.algebra import Provenance, Universe
from ancestral.trace.comparing import Comparison, compare
from ancestral.trace.graph import Graph, Vertex
from ancestral.trace.node import Node
from ancestral.trace.ordering import topological_order
from ancestral.trace.packing import pack, unpack
from ancestral.trace.saving import Content, from_dict, load, save, to_dict
from ancestral.trace.views import format_shapes, html_of


class Transcript(Mapping[str, Node]):
    """The nodes of one run by name, and the views of them; see `ancestral.trace.record.Trace`."""

    _nodes: dict[str, Node]
    _hidden: dict[str, Node]
    _order: list[str]
    _costs: tuple[tuple[Vertex, Provenance], ...]
    universe: Universe
    is_loaded: bool  # from what was stored

    @property
    def graph(self) -> Graph:
        """Who depends on whom, directly."""
        raise NotImplementedError

    def format_shapes(self) -> str:
        """Return the shapes of all sites, parameters and plates as an aligned table.

        Of each distribution batch and event, with a bar between them, of each value too, and the
        shape of the log-probability.
        """
        return format_shapes(self)

    def _repr_html_(self) -> str:
        """Show the shapes in a notebook."""
        return html_of(self)

    def topological_order(self) -> tuple[str, ...]:
        """Return the names of sites and costs, each after its parents."""
        return topological_order(self.graph)

    def detach_(self) -> Self:
        """Cut the values of the sites off from how they were computed, in place; return the trace.

        No pathwise gradient goes through them any more. Parameters keep theirs, and so do costs;
        what a value depends on stays known, so that scores count.
        """
        for name, node in self._nodes.items():
            if node.type == "sample":
                self._nodes[name] = replace(node, value=node.value.detach())
        return self

    def pack(self, names: Iterable[str] | None = None) -> Tensor:
        """Return values as one vector, [size], of the dtype that theirs promote to.

        Args:
            names: the nodes, in this order; by default the free random choices.

        Raises:
            PackError: if there is no such node, or the dtype cannot hold a value.
        """
        return pack(self, names)

    def unpack(self, vector: Tensor, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Return the values that are packed in a vector, by name, in the shapes of this trace.

        Args:
            vector: what `pack` returns, or another of its size.
            names: as for `pack`.

        Raises:
            PackError: if the vector is no tensor or has another size, or the dtype of a site cannot
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
        """Return the trace as dictionaries, lists, texts, numbers and tensors.

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

    def _content(self) -> Content:
        """Return all that is stored of the trace."""
        nodes = tuple(self._nodes.get(name) or self._hidden[name] for name in self._order)
        return Content(self.universe, nodes, frozenset(self._hidden), self._costs)

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
