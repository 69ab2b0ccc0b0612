"""Graph: who depends on whom in a trace, as plain immutable data.

Edges are direct: from the sites whose values reach a distribution's parameters, or a cost, and from
no further ancestor. An edge keeps the alignment, and nothing holds a tensor.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ancestral.provenance.algebra import Provenance
from ancestral.provenance.alignment import Alignment, Shape
from ancestral.trace.independence import Extent, Link, Site, extents, kept
from ancestral.trace.naming import Location
from ancestral.trace.node import Node, place_in


@dataclass(frozen=True)
class Vertex:
    """One site or cost of a graph.

    `kind` is "score" (drawn by ``sample``), "pathwise" (by ``rsample``), "observed",
    "deterministic" or "cost".
    `shape` is that of the whole value.
    """

    name: str
    kind: str
    distribution: str
    shape: Shape
    location: Location
    module_path: str = ""


@dataclass(frozen=True)
class Edge:
    """A direct dependency: `alignment` says which elements depend on which of the parent's.

    Of two edges between the same vertices, no pair of elements is in both.
    """

    parent: str
    child: str
    alignment: Alignment


class Drawing(Protocol):
    """What draws a graph: see `ancestral.tools.render`."""

    def __call__(
        self, graph: "Graph", path: str | Path, /, *, limit: float, is_folded: bool
    ) -> Path:
        """Write the picture to `path` and return it."""
        ...


_drawings: list[Drawing] = []
_mimes: list[Callable[["Graph"], dict[str, str]]] = []


def install(drawing: Drawing, mime: Callable[["Graph"], dict[str, str]]) -> None:
    """Say what draws graphs; the front door does, so that this layer knows nothing of pictures."""
    _drawings[:] = [drawing]
    _mimes[:] = [mime]


@dataclass(frozen=True)
class Graph:
    """The vertices of a trace in the order they were made, and the direct edges between them.

    `plates` are the independent repetitions among them, declared or found.
    """

    vertices: tuple[Vertex, ...] = ()
    edges: tuple[Edge, ...] = ()
    plates: tuple[Extent, ...] = ()

    def parents(self, name: str) -> frozenset[str]:
        """Return the names of the direct parents of a vertex."""
        return frozenset(edge.parent for edge in self.edges if edge.child == name)

    def children(self, name: str) -> frozenset[str]:
        """Return the names of the direct children of a vertex."""
        return frozenset(edge.child for edge in self.edges if edge.parent == name)

    def render(self, path: str | Path, *, limit: float = 20.0, is_folded: bool = False) -> Path:
        """Draw the graph into a file: SVG, PDF, PNG or DOT, by the suffix of `path`.

        Args:
            path: where to write; what was there before stays if the drawing fails.
            limit: the seconds a layout may take; after them a coarser picture is drawn.
            is_folded: draw the repeats of a loop as one vertex from the start.

        Raises:
            ValueError: if the suffix is none of the four.
            OSError: if the path cannot be written.
        """
        return _drawings[0](self, path, limit=limit, is_folded=is_folded)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Show the graph in a notebook: the picture, or its text where nothing can draw it."""
        return _mimes[0](self)

    def __str__(self) -> str:
        """List the vertices with their parents."""
        return "\n".join(
            f"{v.name} ~ {v.distribution or v.kind}{list(v.shape)}"
            + "".join(f" <- {parent}" for parent in sorted(self.parents(v.name)))
            for v in self.vertices
        )


def edges_into(child: str, found: Provenance | None) -> tuple[Edge, ...]:
    """Return the direct edges that a provenance stands for."""
    if found is None:
        return ()
    return tuple(
        Edge(source.name, child, alignment)
        for source, claims in found.claims().items()
        for alignment in claims
    )


def vertex_of(node: Node) -> Vertex:
    """Return the vertex of a node."""
    return Vertex(
        node.name,
        _kind_of(node),
        "" if node.fn is None else type(node.fn).__name__,
        tuple(node.value.shape),
        node.location,
        node.module_path,
    )


def _kind_of(node: Node) -> str:
    if node.type != "sample":
        return node.type
    if node.is_observed:
        return "observed"
    return "pathwise" if node.is_reparameterized else "score"


def graph_of(nodes: Sequence[Node], costs: Sequence[tuple[Vertex, Provenance]] = ()) -> Graph:
    """Return the graph of the nodes of a trace, and of costs, without sources that are no nodes.

    Costs of one name are numbered: ``cost``, ``cost_1`` ...
    """
    nodes = [node for node in nodes if node.type not in ("param", "plate")]
    names = {node.name for node in nodes}
    vertices = [vertex_of(node) for node in nodes]
    found = [edge for node in nodes for edge in edges_into(node.name, node.inflow)]
    sites = [site_of(node) for node in nodes]
    taken = set(names)
    for vertex, provenance in costs:
        spellings = (f"{vertex.name}_{i}" if i else vertex.name for i in itertools.count())
        name = next(spelling for spelling in spellings if spelling not in taken)
        taken.add(name)
        vertices.append(replace(vertex, name=name))
        sites.append(Site(name, vertex.shape, is_cost=True))
        found.extend(edges_into(name, provenance))
    edges = tuple(edge for edge in found if edge.parent in names)
    links = [Link(edge.parent, edge.child, kept(edge.alignment)) for edge in edges]
    return Graph(tuple(vertices), edges, extents(sites, links))


def site_of(node: Node) -> Site:
    """Return what there is to know of a node for the plates it is in."""
    declared = tuple((plate, place_in(node, plate)) for plate in node.cond_indep_stack)
    return Site(node.name, node.shape, node.type == "cost", declared)
