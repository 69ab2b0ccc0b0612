"""Graph of a trace: vertices and edges, as plain immutable data.

Edges are direct: from the sites whose values reach the density of another, or a cost, and from no
further ancestor. They reach a density by the distribution's parameters, by a mask or a scale, and
by a value that was computed rather than drawn. An edge keeps the alignment, and nothing holds a
tensor.

What a graph is asked is answered on its directed graph of networkx:
`ancestral.trace.graph.d_separation`.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from pathlib import Path

import networkx as nx
from torch import Tensor

from ancestral.provenance.algebra.alignment import Alignment, Shape
from ancestral.provenance.algebra.alignment_map import leading
from ancestral.provenance.algebra.provenance import Provenance, Source, union
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.context.place import Location
from ancestral.trace.graph import d_separation, drawing
from ancestral.trace.graph.d_separation import Names
from ancestral.trace.graph.find_plates import Extent, Link, Site, extents, kept
from ancestral.trace.graph.param_edges import Param, params_of
from ancestral.trace.graph.shares import Shares, shares_of, with_shares
from ancestral.trace.nodes.distribution_params import family_name
from ancestral.trace.nodes.factor import shown_shape
from ancestral.trace.nodes.generator_noise import Noise
from ancestral.trace.nodes.node import Node, place_in
from ancestral.trace.nodes.plate_frame import Plate


@dataclass(frozen=True)
class Vertex:
    """One site or cost of a graph.

    `kind` is "score" (drawn by ``sample``), "pathwise" (by ``rsample``), "observed",
    "deterministic", "cost" or, in the graph of a recording that was asked for it, "noise".
    `shape` is that of the whole value, `share` its part of what the graph was coloured by.
    """

    name: str
    kind: str
    distribution: str
    shape: Shape
    location: Location
    module_path: str = ""
    share: float | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Edge:
    """A direct dependency: `alignment` says which elements depend on which of the parent's.

    Of two edges between the same vertices, no pair of elements is in both.
    """

    parent: str
    child: str
    alignment: Alignment


@dataclass(frozen=True)
class Graph:
    """The vertices of a trace in the order they were made, and the direct edges between them.

    `plates` are the independent repetitions among them, declared or found. `params` are the
    parameters that reach them, of which there is no question but for a picture.
    """

    vertices: tuple[Vertex, ...] = ()
    edges: tuple[Edge, ...] = ()
    plates: tuple[Extent, ...] = ()
    params: tuple[Param, ...] = ()

    @cached_property
    def _digraph(self) -> nx.DiGraph:
        """The vertices and the edges; not to be changed."""
        digraph = nx.DiGraph()
        plates: dict[str, list[str]] = {v.name: [] for v in self.vertices}
        for extent in self.plates:
            for name in extent.sites:
                plates[name].append(extent.name)
        for v in self.vertices:
            about = {"kind": v.kind, "distribution": v.distribution, "shape": v.shape}
            digraph.add_node(v.name, **about, plates=tuple(plates[v.name]))
        for edge in self.edges:
            known = digraph.get_edge_data(edge.parent, edge.child, {"alignments": ()})
            alignments = (*known["alignments"], edge.alignment)
            digraph.add_edge(edge.parent, edge.child, alignments=alignments)
        return digraph

    def to_networkx(self) -> nx.DiGraph:
        """Return the graph as one of networkx, to be changed at will.

        A node has the attributes `kind`, `distribution`, `shape` and `plates`, the names of its
        plates; an edge has `alignments`.
        """
        return self._digraph.copy()

    def parents(self, name: str) -> frozenset[str]:
        """Return the names of the direct parents of a vertex.

        Raises:
            SiteError: if the graph has no such vertex, as for all that follow.
        """
        return d_separation.parents(self._digraph, name)

    def children(self, name: str) -> frozenset[str]:
        """Return the names of the direct children of a vertex."""
        return d_separation.children(self._digraph, name)

    def ancestors(self, name: str) -> frozenset[str]:
        """Return the names of all that a vertex depends on, through others too."""
        return d_separation.ancestors(self._digraph, name)

    def descendants(self, name: str) -> frozenset[str]:
        """Return the names of all that depends on a vertex, through others too."""
        return d_separation.descendants(self._digraph, name)

    def topological_order(self) -> tuple[str, ...]:
        """Return the names, parents before children; in program order where that leaves a choice.

        Raises:
            SiteError: if the vertices depend on each other in a circle.
        """
        return d_separation.topological_order(self._digraph)

    def moralized(self) -> nx.Graph:
        """Return the random sites, each joined with its parents, and parents of one site in pairs.

        What has no density, a deterministic value or a cost, is left out: a site's parents are
        those that it depends on through such values too.
        """
        return d_separation.moralized(self._digraph)

    def markov_blanket(self, name: str) -> frozenset[str]:
        """Return what makes a vertex independent of all other random sites once it is known.

        These are its parents, the random sites among its children, and their parents, each
        through deterministic values too.
        """
        return d_separation.markov_blanket(self._digraph, name)

    def d_separated(self, a: Names, b: Names, given: Names = ()) -> bool:
        """Return whether vertices are independent of others for this structure, given a third set.

        True says that they are, whatever the distributions; False, that they need not be. A site
        as a whole counts, not its elements. A deterministic value lies between the sites that it
        was computed from and those that are computed from it, and is known as soon as all that it
        was computed from is: the D-separation of Geiger, Verma and Pearl (1990), "d-separation:
        from theorems to algorithms". Its formula, which may tell more, is not looked at.

        Args:
            a: a name, or some.
            b: a name, or some.
            given: a name, or some, or none; what is known is independent of everything.
        """
        return d_separation.d_separated(self._digraph, a, b, given)

    def colored(self, shares: Shares) -> "Graph":
        """Return the graph with the share of each site in the variance, which pictures show.

        The share of draws of one loop that were measured together, under the name that theirs have
        in common, is divided among them.

        Args:
            shares: an `ancestral.Monitor`, what `ancestral.study` returned, the folder that it left
                (or its sites.csv), or numbers in [0, 1] by site. What lies at sites that the graph
                does not have is said below the picture.

        Raises:
            TypeError: if it is none of these.
            ValueError: if a number is no share, or the folder has none.
        """
        return replace(self, vertices=tuple(with_shares(self.vertices, shares_of(shares))))

    def render(
        self,
        path: str | Path,
        *,
        limit: float = 20.0,
        is_folded: bool | None = None,
        with_params: bool = False,
        shares: Shares | None = None,
    ) -> Path:
        """Draw the graph into a file, by the suffix of `path`.

        A picture as SVG, PDF or PNG; a page to explore as HTML, as `to_html` makes it; or a text
        for other programs: DOT, Mermaid (.mmd), GraphML or JSON.

        Args:
            path: where to write; what was there before stays if the drawing fails.
            limit: the seconds a layout may take; after them a coarser picture is drawn.
            is_folded: draw the repeats of a loop as one vertex, in a frame with the steps; or, if
                False, one by one. By default, loops of four steps or more are folded.
            with_params: draw the parameters too: those of `an.param` and `an.module`, and of the
                module that `an.graph` ran.
            shares: colour the sites by them, as `colored` does.

        Raises:
            TypeError: if `shares` are none.
            ValueError: if the suffix is none of these, or `shares` are not there.
            OSError: if the path cannot be written.
        """
        drawn = self if shares is None else self.colored(shares)
        return drawing.drawings[0](
            drawn, path, limit=limit, is_folded=is_folded, with_params=with_params
        )

    def to_html(
        self,
        *,
        limit: float = 20.0,
        is_folded: bool | None = None,
        with_params: bool = False,
        shares: Shares | None = None,
    ) -> str:
        """Return a page to explore the graph in a browser, as one file that needs no network.

        It moves and zooms, finds nodes, lights what lies up- and downstream of one, folds plates
        and modules, and shows every step of a loop; with a mouse, by touch or with the keyboard.

        Args:
            limit: the seconds a layout may take; after them a coarser picture is on the page.
            is_folded: as for `render`.
            with_params: as for `render`.
            shares: as for `render`, whose errors are raised here.
        """
        drawn = self if shares is None else self.colored(shares)
        return drawing.pages[0](drawn, limit=limit, is_folded=is_folded, with_params=with_params)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Show the graph in a notebook: the picture, or its text where nothing can draw it."""
        return drawing.mimes[0](self)

    def __str__(self) -> str:
        """List the vertices with their parents."""
        return "\n".join(
            f"{v.name} ~ {v.distribution or v.kind}{list(v.shape)}"
            + "".join(f" <- {parent}" for parent in sorted(self.parents(v.name)))
            for v in self.vertices
        )


def edges_into(child: str, found: Provenance | None, names: Mapping[Source, str]) -> Iterator[Edge]:
    """Yield the direct edges that a provenance stands for, from the sources that have a name."""
    for source, claims in {} if found is None else claimed(found, names).items():
        parent = names.get(source, child)
        if parent != child:
            for alignment in claims:
                yield Edge(parent, child, alignment)


def names_of(nodes: Iterable[Node]) -> dict[Source, str]:
    """Return the names of nodes by their sources: a trace may have renamed one that it took in."""
    names: dict[Source, str] = {}
    for node in nodes:
        names.setdefault(node.source, node.name)
    return names


def direct_edges(nodes: Sequence[Node]) -> Iterator[Edge]:
    """Yield the direct edges between nodes, without sources that are none of them."""
    names = names_of(nodes)
    for node in nodes:
        yield from edges_into(node.name, influence(node), names)


def influence(node: Node) -> Provenance | None:
    """Return what the density of a node depends on but for its own draw, over its shape."""
    parts = [node.param_provenance]
    if node.type == "sample":
        parts.append(_weight(node, node.mask))
        parts.append(_weight(node, node.scale))
        if node.is_given and node.held is not None and len(node.held.members) > 1:
            parts.append(node.held.remap(node.shape, tuple(range(len(node.shape)))))
    known = [part for part in parts if part is not None]
    return union(known) if known else None


def _weight(node: Node, weight: float | Tensor | None) -> Provenance | None:
    """Return what a mask or a scale of the batch of a node depends on."""
    found = provenance(weight) if isinstance(weight, Tensor) else None
    if found is None:
        return None
    return found.lost(node.shape) if node.event_dims else found.broadcast(node.shape)


def vertex_of(node: Node) -> Vertex:
    """Return the vertex of a node."""
    return Vertex(
        node.name,
        _kind_of(node),
        family_name(node.fn),
        shown_shape(node.fn, node.value),
        node.location,
        node.module_path,
    )


def _kind_of(node: Node) -> str:
    if node.type != "sample":
        return node.type
    if node.is_observed:
        return "observed"
    return "pathwise" if node.is_reparameterized else "score"


def graph_of(
    nodes: Sequence[Node],
    costs: Sequence[tuple[Vertex, Provenance]] = (),
    noise: Sequence[Noise] | None = None,
) -> Graph:
    """Return the graph of the nodes of a trace, and of costs, without sources that are no nodes.

    Costs of one name are numbered: ``cost``, ``cost_1`` ... With `noise`, what of it reaches them
    is in the graph, and so is what reparameterized draws are made of.
    """
    params = params_of(nodes)
    placed = [(at, node) for at, node in enumerate(nodes) if node.type not in ("param", "plate")]
    nodes = [node for _, node in placed]
    names = names_of(nodes) | {each.source: each.name for each in noise or ()}
    vertices = [vertex_of(node) for node in nodes]
    edges = [edge for node in nodes for edge in edges_into(node.name, influence(node), names)]
    sites = [site_of(node) for node in nodes]
    taken = {*names.values()}
    ends: list[Vertex] = []
    for vertex, found in costs:
        spellings = (f"{vertex.name}_{i}" if i else vertex.name for i in itertools.count())
        name = next(spelling for spelling in spellings if spelling not in taken)
        taken.add(name)
        ends.append(replace(vertex, name=name))
        sites.append(Site(name, vertex.shape, is_cost=True))
        edges.extend(edges_into(name, found, names))
    if noise is not None:
        own = [(at, node) for at, node in placed if _kind_of(node) == "pathwise"]
        edges += [_edge_of_noise(node) for _, node in own]
        reaching = {edge.parent for edge in edges}
        shown = [each for each in noise if each.name in reaching]
        made = [Site(each.name, each.source.shape) for each in shown]
        made += [site_of(node)._replace(name=_noise_of(node)) for _, node in own]
        sites = [*made, *sites]  # parents come first
        ahead = [(each.position - 0.5, _vertex_of_noise(each)) for each in shown]
        ahead += [(at - 0.25, _own_noise(node)) for at, node in own]
        ahead += [(at, vertex) for (at, _), vertex in zip(placed, vertices, strict=True)]
        vertices = [vertex for _, vertex in sorted(ahead, key=itemgetter(0))]
    links = [Link(edge.parent, edge.child, kept(edge.alignment)) for edge in edges]
    return Graph((*vertices, *ends), tuple(edges), extents(sites, links), params)


def _noise_of(node: Node) -> str:
    return f"noise of {node.name}"


def _own_noise(node: Node) -> Vertex:
    """Return what a reparameterized draw is made of, besides its parameters."""
    return replace(vertex_of(node), name=_noise_of(node), kind="noise", distribution="")


def _edge_of_noise(node: Node) -> Edge:
    return Edge(_noise_of(node), node.name, leading(node.shape, node.shape))


def _vertex_of_noise(noise: Noise) -> Vertex:
    return Vertex(
        noise.name, "noise", noise.made_by, noise.shape, noise.location, noise.module_path
    )


def site_of(node: Node) -> Site:
    """Return what there is to know of a node for the plates it is in."""
    placed = ((plate, place_in(node, plate)) for plate in node.cond_indep_stack)
    declared = tuple((plate, place) for plate, place in placed if _is_there(node, plate, place))
    return Site(node.name, node.shape, node.type == "cost", declared)


def _is_there(node: Node, plate: Plate, place: int | None) -> bool:
    """Return whether a node has the dimension of a plate around it; a computed value need not."""
    if node.type != "deterministic" or place is None:
        return True
    return place >= 0 and node.shape[place] == plate.subsample_size
