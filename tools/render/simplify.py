"""Sketch: which nodes and arrows a picture of a graph has.

Loops of four steps or more are folded, and where there are many arrows, those that others imply are
left out: a chain in which each draw depends on all before it has an arrow from each to the next.

>>> from ancestral.trace.graph.graph import Edge, Graph, Vertex
>>> from ancestral.trace.context.place import Location
>>> names = [f"layer{i}" for i in range(13)]
>>> places = [Location("m.py", line, "f") for line in range(13)]
>>> vertices = [Vertex(n, "score", "Normal", (), p) for n, p in zip(names, places, strict=True)]
>>> edges = [Edge(a, b, ()) for i, b in enumerate(names) for a in names[:i]]
>>> sketch, implied = sketched(Graph(tuple(vertices), tuple(edges)))
>>> len(sketch.arrows), implied
(12, 66)
"""

from dataclasses import replace

import networkx as nx

from ancestral.provenance.algebra.alignment import Alignment
from ancestral.tools.render.fold_loops import Sketch, folded, unfolded
from ancestral.trace.graph.graph import Edge, Graph, Vertex

_STEPS = 4
"""The steps of a loop from which on it is folded."""
_NODES, _ARROWS = 12, 2
"""A picture of more nodes, and more arrows for each node, leaves out those that are implied."""


def with_or_without(graph: Graph, with_params: bool) -> Graph:
    """Return a graph whose parameters are vertices, or none of it."""
    names = {vertex.name for vertex in graph.vertices}
    vertices, edges = [], []
    for param in graph.params if with_params else ():
        name = param.name if param.name not in names else f"{param.name} (parameters)"
        several = f"{param.count} tensors" if param.count > 1 else ""
        shape = () if several else param.shape
        vertices.append(Vertex(name, "param", several, shape, param.location))
        edges += [Edge(name, child, Alignment(())) for child in param.children]
    return Graph((*vertices, *graph.vertices), (*edges, *graph.edges), graph.plates)


def first_of(graph: Graph, count: int) -> Graph:
    """Return a graph of the first vertices, in program order, and what lies between them."""
    vertices = graph.vertices[:count]
    names = {vertex.name for vertex in vertices}
    edges = (e for e in graph.edges if e.parent in names and e.child in names)
    plates = (
        replace(plate, dims=tuple((site, dim) for site, dim in plate.dims if site in names))
        for plate in graph.plates
    )
    return Graph(vertices, tuple(edges), tuple(plate for plate in plates if plate.dims))


def sketched(graph: Graph, is_folded: bool | None = None) -> tuple[Sketch, int]:
    """Return what a picture shows, and how many arrows it leaves out.

    Args:
        graph: What to draw.
        is_folded: Draw all repeats as one, or none; by default, those of long loops.
    """
    if is_folded is None:
        sketch = folded(graph, _STEPS)
    else:
        sketch = folded(graph) if is_folded else unfolded(graph)
    many = len(sketch.groups) > _NODES and len(sketch.arrows) > _ARROWS * len(sketch.groups)
    return _reduced(sketch) if many else (sketch, 0)


def _reduced(sketch: Sketch) -> tuple[Sketch, int]:
    """Return a sketch without the arrows that a path of others implies, and how many these are.

    Aho, Garey and Ullman (1972), "The transitive reduction of a directed graph". One with a cycle,
    as two loops may have, is left as it is.
    """
    between = nx.DiGraph([(a.parent, a.child) for a in sketch.arrows if a.parent != a.child])
    if not nx.is_directed_acyclic_graph(between):
        return sketch, 0
    order = {place: number for number, place in enumerate(nx.topological_sort(between))}
    implied: set[tuple[int, int]] = set()
    reached: dict[
        int, int
    ] = {}  # by place: what is below it, and itself, as the bits of an integer
    for parent in reversed(order):
        found = 1 << order[parent]
        for child in sorted(between[parent], key=order.__getitem__):
            if found >> order[child] & 1:
                implied.add((parent, child))
            found |= reached[child]
        reached[parent] = found
    arrows = tuple(a for a in sketch.arrows if (a.parent, a.child) not in implied)
    return replace(sketch, arrows=arrows), len(sketch.arrows) - len(arrows)
