"""Loop folding: the repeats of a loop drawn as one node, and their edges as one arrow.

A loop draws ``z``, ``z_1``, ``z_2`` ... at one line of the source, from one kind of distribution,
in one module. What a picture shows is a `Sketch`: groups of vertices, and arrows between groups.
Unfolded, every vertex is its own group; folded, the repeats of a loop share one. What repeats as
often, and depends on no later step of the other, is one loop, a plate in turn: ``t = 0..14``.

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
>>> [loop.name for loop in folded(chain).loops]
['t = 0..1']
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import networkx as nx

from ancestral.trace.context.place import Location
from ancestral.trace.graph.find_plates import Extent
from ancestral.trace.graph.graph import Edge, Graph, Vertex
from ancestral.trace.graph.loop_names import stem


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
        if self.steps is not None:
            return f"{stem(names[0])}[{self.steps}]"
        return f"{names[0]} .. {names[-1]}"

    @property
    def steps(self) -> str | None:
        """Return the counters of its members, ``0..79``, None where they do not follow on."""
        counts = [_count(member.name) for member in self.members]
        start = int(counts[0][:9])
        follow = counts == [str(start + step) for step in range(len(counts))]
        return f"{counts[0]}..{counts[-1]}" if follow else None


@dataclass(frozen=True)
class Arrow:
    """All edges from one group to another; `parent` and `child` are places among the groups."""

    parent: int
    child: int
    edges: tuple[Edge, ...]
    lags: frozenset[int] | None = None  # steps from parent to child, None if not of one loop

    @property
    def is_stepwise(self) -> bool:
        """Whether it joins steps of one loop, and none to an earlier one."""
        return self.lags is not None and min(self.lags) >= 0

    @property
    def label(self) -> str:
        """Say in which steps of the loop, from that of the parent, the children are."""
        if self.lags is None or not self.is_stepwise or self.lags == {0}:
            return ""
        if 0 in self.lags:
            return "now and later"
        return "next" if self.lags == {1} else "later"


@dataclass(frozen=True)
class Sketch:
    """What a picture shows.

    `loops` are the plates of the steps that repeat: not declared, and in turn.
    """

    groups: tuple[Group, ...]
    arrows: tuple[Arrow, ...]
    loops: tuple[Extent, ...] = ()


def repeat_of(vertex: Vertex) -> Repeat:
    """Return the loop that a vertex would be a repeat of."""
    return Repeat(
        stem(vertex.name), vertex.kind, vertex.distribution, vertex.location, vertex.module_path
    )


def unfolded(graph: Graph) -> Sketch:
    """Return the sketch that shows every vertex."""
    return _sketch(graph, [Group((vertex,)) for vertex in graph.vertices])


def folded(graph: Graph, least: int = 2) -> Sketch:
    """Return the sketch that shows the repeats of a loop as one, if there are so many."""
    repeats: dict[Repeat, list[Vertex]] = {}
    for vertex in graph.vertices:
        repeats.setdefault(repeat_of(vertex), []).append(vertex)
    groups: dict[tuple[Repeat, str], list[Vertex]] = {}
    for vertex in graph.vertices:
        repeat = repeat_of(vertex)
        own = vertex.name if len(repeats[repeat]) < least else ""
        groups.setdefault((repeat, own), []).append(vertex)
    sketch = _sketch(graph, [Group(tuple(members)) for members in groups.values()])
    return replace(sketch, loops=_loops(sketch))


def is_loop(plate: Extent) -> bool:
    """Return whether a plate is that of steps that repeat, which nobody declared."""
    return not plate.is_declared and any(dim is None for _, dim in plate.dims)


def _loops(sketch: Sketch) -> tuple[Extent, ...]:
    """Return the plates of groups that arrows join step by step."""
    joined = nx.Graph((a.parent, a.child) for a in sketch.arrows if a.is_stepwise)
    found: list[Extent] = []
    for places in sorted(sorted(component) for component in nx.connected_components(joined)):
        groups = [sketch.groups[place] for place in places]
        count = len(groups[0].members)
        steps = next((group.steps for group in groups if group.steps), f"0..{count - 1}")
        dims = tuple((member.name, None) for group in groups for member in group.members)
        found.append(Extent(f"t = {steps}", count, count, dims))
    return tuple(found)


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
                _lags(groups[parent], groups[child], [_steps(places, edge) for edge in edges]),
            )
            for (parent, child), edges in found.items()
        ),
    )


def _steps(places: dict[str, tuple[int, int]], edge: Edge) -> int:
    return places[edge.child][1] - places[edge.parent][1]


def _lags(parent: Group, child: Group, steps: Sequence[int]) -> frozenset[int] | None:
    """Return how many steps of a loop an arrow spans, None where its ends are not in one."""
    count = len(parent.members)
    return frozenset(steps) if count == len(child.members) > 1 else None


def _count(name: str) -> str:
    numbers: list[str] = re.findall(r"\d+", name[len(stem(name)) :])
    return numbers[-1] if numbers else "0"
