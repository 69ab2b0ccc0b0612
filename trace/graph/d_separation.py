"""D-separation: conditional independence of sites, read from their edges.

The graph is a directed one of networkx, its nodes have a `kind`: see `Graph.to_networkx`. Costs are
leaves. A value that `deterministic` gave a name lies between what it was computed from and what is
computed from it; it has no density, and is known once all that it was computed from is.

>>> digraph = nx.DiGraph([("rain", "wet"), ("sprinkler", "wet")])
>>> nx.set_node_attributes(digraph, "score", "kind")
>>> d_separated(digraph, "rain", "sprinkler"), d_separated(digraph, "rain", "sprinkler", "wet")
(True, False)
>>> sorted(markov_blanket(digraph, "rain"))
['sprinkler', 'wet']
"""

from collections.abc import Iterable
from typing import Any

import networkx as nx

from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.errors import SiteError, guessed, listed

Names = str | Iterable[str]
"""A name, or some."""
WITHOUT_DENSITY = ("deterministic", "cost")


def parents(digraph: nx.DiGraph, name: str) -> frozenset[str]:
    """Return the names of the direct parents of a node."""
    return frozenset(digraph.pred[checked(digraph, name)])


def children(digraph: nx.DiGraph, name: str) -> frozenset[str]:
    """Return the names of the direct children of a node."""
    return frozenset(digraph.succ[checked(digraph, name)])


def ancestors(digraph: nx.DiGraph, name: str) -> frozenset[str]:
    """Return the names of all that there is a path from."""
    return frozenset(nx.ancestors(digraph, checked(digraph, name)))


def descendants(digraph: nx.DiGraph, name: str) -> frozenset[str]:
    """Return the names of all that there is a path to."""
    return frozenset(nx.descendants(digraph, checked(digraph, name)))


def topological_order(digraph: nx.DiGraph) -> tuple[str, ...]:
    """Return the names, parents before children, in the order of the nodes where there is a choice.

    Raises:
        SiteError: if there is no such order.
    """
    places = {name: place for place, name in enumerate(digraph)}
    try:
        return tuple(nx.lexicographical_topological_sort(digraph, key=places.__getitem__))
    except nx.NetworkXUnfeasible as error:
        cycle = " -> ".join(parent for parent, _ in nx.find_cycle(digraph))
        problem = f"the graph has no order, as these depend on each other: {cycle}"
        raise SiteError(problem) from error


def moralized(digraph: nx.DiGraph) -> nx.Graph:
    """Return the random nodes, each joined with its parents, and parents of one node in pairs."""
    bare = nx.DiGraph()  # without attributes, which networkx would copy deeply
    bare.add_nodes_from(name for name in digraph if _is_random(digraph, name))
    for name in list(bare):
        bare.add_edges_from((parent, name) for parent in _through(digraph, name, digraph.pred))
    return nx.moral_graph(bare)


def markov_blanket(digraph: nx.DiGraph, name: str) -> frozenset[str]:
    """Return the parents of a node, the random ones among its children, and their parents."""
    found = _through(digraph, checked(digraph, name), digraph.pred)
    if digraph.nodes[name]["kind"] != "deterministic":  # whose parents are all that it is
        for child in _through(digraph, name, digraph.succ):
            if _is_random(digraph, child):
                found |= {child, *_through(digraph, child, digraph.pred)}
    return frozenset(found - {name})


def _through(digraph: nx.DiGraph, name: str, ways: Any) -> set[str]:
    """Return the nodes next to one, in place of deterministic values those next to them."""
    found: set[str] = set()
    pending, seen = list(ways[name]), set[str]()
    while pending:
        other = pending.pop()
        if digraph.nodes[other]["kind"] != "deterministic":
            found.add(other)
        elif other not in seen:
            seen.add(other)
            pending.extend(ways[other])
    return found


def d_separated(digraph: nx.DiGraph, a: Names, b: Names, given: Names = ()) -> bool:
    """Return whether no path between two sets of nodes is open, given a third.

    What is given is independent of everything, and otherwise a node is of none that it is itself.
    """
    known = _determined(digraph, _checked_set(digraph, given))
    ours, theirs = _checked_set(digraph, a) - known, _checked_set(digraph, b) - known
    if ours & theirs:
        return False
    if not ours or not theirs:
        return True
    return bool(nx.is_d_separator(digraph, ours, theirs, known))


def _determined(digraph: nx.DiGraph, known: set[str]) -> set[str]:
    """Return what is known, and the deterministic values of which all parents are."""
    known = set(known)
    for name in topological_order(digraph):
        if digraph.nodes[name]["kind"] == "deterministic" and known.issuperset(digraph.pred[name]):
            known.add(name)
    return known


def checked(digraph: nx.DiGraph, name: str) -> str:
    """Return a name.

    Raises:
        SiteError: if the graph has no such node.
    """
    if name not in digraph:
        raise SiteError(
            f"the graph has no vertex {short(name)}; it has {listed(digraph)}"
            f"{guessed([name], digraph)}"
        )
    return name


def _checked_set(digraph: nx.DiGraph, names: Names) -> set[str]:
    some = [names] if isinstance(names, str) else names
    return {checked(digraph, name) for name in some}


def _is_random(digraph: nx.DiGraph, name: str) -> bool:
    return digraph.nodes[name]["kind"] not in WITHOUT_DENSITY
