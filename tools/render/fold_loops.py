"""Loop folding: the repeats of a loop drawn as one node, and their edges as one arrow.

A loop draws ``z``, ``z_1``, ``z_2`` ... at one line of the source, from one kind of distribution,
in one module. What a picture shows is a `Sketch`: groups of vertices, and arrows between groups.
Unfolded, every vertex is its own group; folded, the repeats of a loop share one.

>>> from ancestral.trace.graph.graph import Edge, Graph, Vertex
>>> from ancestral.trace.context.place import Location
>>> steps = [Vertex(n, "score", "Normal", (), Location("model.py", 3, "f")) for n in ("z", "z_1")]
>>> chain = Graph(tuple(steps), (Edge("z", "z_1", ()),))
>>> [group.title for group in unfolded(chain).groups]
['z', 'z_1']
>>> [group.title for group in folded(chain).groups]
['z[0..1]']
>>> [arrow.label for arrow in folded(chain).arrows]
['next']
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ancestral.trace.context.place import Location
from ancestral.trace.graph.graph import Edge, Graph, Vertex

_COUNTER = re.compile(r"(?<![\W\d_])[\W\d_]*\d[\W_]*$")
"""The suffix of a repeat of a loop: the end of ``z_1``, ``z[3]``, ``z_2_0`` or ``z7``."""


@dataclass(frozen=True)
class Repeat:
    """What the repeats of one loop have in common."""

    stem: str
    kind: str
    distribution: str
    location: Location
    module_path: str


@dataclass(frozen=True)
class Group:
    """Vertices that are drawn as one node, in the order they were made."""

    members: tuple[Vertex, ...]

    @property
    def title(self) -> str:
        """Return the name to show: a vertex's own, or ``z[0..79]`` for the repeats of a loop."""
        names = [member.name for member in self.members]
        if len(names) == 1:
            return names[0]
        counts = [_count(name) for name in names]
        start = int(counts[0][:9])
        if counts == [str(start + step) for step in range(len(names))]:
            return f"{stem(names[0])}[{counts[0]}..{counts[-1]}]"
        return f"{names[0]} .. {names[-1]}"


@dataclass(frozen=True)
class Arrow:
    """All edges from one group to another; `parent` and `child` are places among the groups."""

    parent: int
    child: int
    edges: tuple[Edge, ...]
    label: str = ""


@dataclass(frozen=True)
class Sketch:
    """What a picture shows."""

    groups: tuple[Group, ...]
    arrows: tuple[Arrow, ...]


def stem(name: str) -> str:
    """Return a name without its counter.

    >>> stem("z"), stem("z_12"), stem("z[3]"), stem("layer1.z_0_1"), stem("7")
    ('z', 'z', 'z', 'layer1.z', '7')
    """
    return _COUNTER.sub("", name) or name


def repeat_of(vertex: Vertex) -> Repeat:
    """Return the loop that a vertex would be a repeat of."""
    return Repeat(
        stem(vertex.name), vertex.kind, vertex.distribution, vertex.location, vertex.module_path
    )


def unfolded(graph: Graph) -> Sketch:
    """Return the sketch that shows every vertex."""
    return _sketch(graph, [Group((vertex,)) for vertex in graph.vertices])


def folded(graph: Graph) -> Sketch:
    """Return the sketch that shows the repeats of a loop as one."""
    repeats: dict[Repeat, list[Vertex]] = {}
    for vertex in graph.vertices:
        repeats.setdefault(repeat_of(vertex), []).append(vertex)
    return _sketch(graph, [Group(tuple(members)) for members in repeats.values()])


def _sketch(graph: Graph, groups: Sequence[Group]) -> Sketch:
    places = {
        vertex.name: (place, step)
        for place, group in enumerate(groups)
        for step, vertex in enumerate(group.members)
    }
    found: dict[tuple[int, int], list[Edge]] = {}
    for edge in graph.edges:
        # A cost that was added later may name sources that are no vertices.
        if edge.parent in places and edge.child in places:
            ends = places[edge.parent][0], places[edge.child][0]
            found.setdefault(ends, []).append(edge)
    return Sketch(
        tuple(groups),
        tuple(
            Arrow(
                parent,
                child,
                tuple(edges),
                _lag(groups[parent], groups[child], [_steps(places, edge) for edge in edges]),
            )
            for (parent, child), edges in found.items()
        ),
    )


def _steps(places: dict[str, tuple[int, int]], edge: Edge) -> int:
    return places[edge.child][1] - places[edge.parent][1]


def _lag(parent: Group, child: Group, lags: Sequence[int]) -> str:
    """Say how many steps of the loop an arrow spans, where both ends are in it."""
    if len(parent.members) != len(child.members) or not all(lag > 0 for lag in lags):
        return ""
    return "next" if max(lags) == 1 else "later"


def _count(name: str) -> str:
    numbers: list[str] = re.findall(r"\d+", name[len(stem(name)) :])
    return numbers[-1] if numbers else "0"
