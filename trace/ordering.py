"""Ordering: the vertices of a graph, each after its parents."""

import heapq

from ancestral.trace.graph import Graph


def topological_order(graph: Graph) -> tuple[str, ...]:
    """Return the names of the vertices, each after its parents, else in the order of the program.

    Kahn (1962), "Topological sorting of large networks".
    """
    names = [vertex.name for vertex in graph.vertices]
    numbers = {name: number for number, name in enumerate(names)}
    children: dict[str, list[str]] = {name: [] for name in names}
    missing = dict.fromkeys(names, 0)
    for parent, child in {(edge.parent, edge.child) for edge in graph.edges}:
        children[parent].append(child)
        missing[child] += 1
    ready = [numbers[name] for name in names if not missing[name]]
    found: list[str] = []
    while ready:
        name = names[heapq.heappop(ready)]
        found.append(name)
        for child in children[name]:
            missing[child] -= 1
            if not missing[child]:
                heapq.heappush(ready, numbers[child])
    return tuple(found)
