"""Dependencies between sites, in the prior and in the posterior, and an order for guides.

The format is that of ``get_dependencies`` in Pyro's ``pyro.infer.inspect``, but it is read off a
recording, its direct parents and their alignments: no density is asked for, the model does not run
again, and what goes through a branch of Python counts.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> from ancestral.trace.program.plate import plate
>>> with record() as trace:
...     with plate("p", 5):
...         a = sample("a", Normal(0.0, 1.0))
...     b = sample("b", Normal(a.sum(), 1.0), obs=torch.tensor(0.3))
>>> prior_dependencies(trace)
{'a': {'a': frozenset()}, 'b': {'a': frozenset(), 'b': frozenset()}}
>>> posterior_dependencies(trace)  # a[0] and a[1] depend on each other, given b
{'a': {'a': frozenset({'p'}), 'b': frozenset()}}
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement

import networkx as nx
from torch import Tensor

from ancestral.provenance.algebra.alignment import Alignment, by_dim
from ancestral.provenance.tensor.tensor import provenance, raw
from ancestral.trace.graph.argument_types import check_trace
from ancestral.trace.graph.find_plates import kept
from ancestral.trace.graph.graph import direct_edges
from ancestral.trace.nodes.node import Node, place_in
from ancestral.trace.nodes.plate_frame import Plate
from ancestral.trace.recording.trace import Trace

Dependencies = dict[str, dict[str, frozenset[str]]]
"""For each site, the sites that it depends on, with the plates along which all their elements do.

Along the other plates that both are in, element n depends on element n alone.
"""


@dataclass(frozen=True)
class Factor:
    """The density of one site, as a factor of that of the program.

    `places` has the dimension of the site that each of its plates is. `incoming` says of each
    latent site that the density depends on directly how it does, the earliest first.
    """

    name: str
    is_latent: bool
    plates: Mapping[str, Plate]
    places: Mapping[str, int]
    incoming: Mapping[str, tuple[Alignment, ...]]


def prior_dependencies(trace: Trace) -> Dependencies:
    """Return for each site, in program order, the latent sites that it depends on directly.

    It depends on itself too. Sites whose values are data are none to depend on, and those of them
    that a mask leaves out altogether are no sites.

    Raises:
        TypeError: if `trace` is none.
    """
    check_trace("prior_dependencies", trace)
    known = factors(trace)
    return {
        site.name: {
            **{name: _coupled_along(site, known[name]) for name in site.incoming},
            site.name: frozenset(),
        }
        for site in known.values()
    }


def posterior_dependencies(trace: Trace) -> Dependencies:
    """Return for each latent site, in program order, what it depends on once the data is seen.

    These are the latent sites from itself on and the data, as far as one density has them both:
    the density of either, or that of a common child, which couples its parents. Each pair of sites
    stands under the earlier one. They are the edges of the moral graph, as in Pyro, and the
    conditionals of an exact guide may need more: see `suggest_guide_order`.

    It differs from Pyro's answer on purpose where that loses a dependency, one through a branch of
    Python or a write in place, and where it claims too much: a common child outside of a plate
    whose element n depends on elements n of its parents does not couple the others.

    Raises:
        TypeError: if `trace` is none.
    """
    check_trace("posterior_dependencies", trace)
    known = factors(trace)
    found: Dependencies = {site.name: {} for site in known.values() if site.is_latent}
    sets: dict[frozenset[str], frozenset[str]] = {}  # so that equal ones are one

    def couple(earlier: str, later: str, plates: frozenset[str]) -> None:
        both = found[earlier].get(later, plates) | plates
        found[earlier][later] = sets.setdefault(both, both)

    for site in known.values():
        parents = [known[name] for name in site.incoming]
        if site.is_latent:
            couple(site.name, site.name, frozenset())
        for parent in parents:
            couple(parent.name, site.name, _coupled_along(site, parent))
        for earlier, later in combinations_with_replacement(parents, 2):
            couple(earlier.name, later.name, _married_along(site, earlier, later))
    return found


def factors(trace: Trace) -> dict[str, Factor]:
    """Return the densities of a trace by site, in program order."""
    nodes = [node for node in trace.values() if node.type == "sample" and not _is_left_out(node)]
    places = {node.name: place for place, node in enumerate(nodes) if node.is_stochastic}
    incoming: dict[str, dict[str, tuple[Alignment, ...]]] = {node.name: {} for node in nodes}
    for edge in direct_edges(nodes):
        if edge.parent in places:
            claims = incoming[edge.child]
            claims[edge.parent] = (*claims.get(edge.parent, ()), edge.alignment)
    return {node.name: _factor(node, _sorted(incoming[node.name], places)) for node in nodes}


def _sorted(
    incoming: dict[str, tuple[Alignment, ...]], places: dict[str, int]
) -> dict[str, tuple[Alignment, ...]]:
    return {name: incoming[name] for name in sorted(incoming, key=places.__getitem__)}


def _factor(node: Node, incoming: Mapping[str, tuple[Alignment, ...]]) -> Factor:
    plates = {plate.name: plate for plate in node.cond_indep_stack if plate.dim is not None}
    places = {name: place for name, p in plates.items() if (place := place_in(node, p)) is not None}
    return Factor(node.name, node.is_stochastic, plates, places, incoming)


def _is_left_out(node: Node) -> bool:
    """Return whether a site is data of which no element counts, whatever is drawn."""
    if not node.is_observed or node.mask is None or provenance(node.mask) is not None:
        return False
    return not raw(Tensor.any, node.mask)


def _shared(*sites: Factor) -> Iterator[str]:
    first, *others = sites
    return (name for name in first.plates if all(name in other.plates for other in others))


def _coupled_along(site: Factor, parent: Factor) -> frozenset[str]:
    """Return the plates of both along which elements of a site depend on other elements too."""
    return frozenset(
        name
        for name in _shared(site, parent)
        if site.plates[name].subsample_size > 1
        and any(
            kept(claim)[site.places[name]] != parent.places[name]
            for claim in site.incoming[parent.name]
        )
    )


def _married_along(child: Factor, one: Factor, other: Factor) -> frozenset[str]:
    """Return the plates of two parents along which a child couples elements of different index."""
    return frozenset(
        name
        for name in _shared(one, other)
        if not (name in child.plates and child.plates[name].subsample_size == 1)
        and not _go_together(
            child.incoming[one.name],
            one.places[name],
            child.incoming[other.name],
            other.places[name],
        )
    )


def _go_together(
    ours: Iterable[Alignment], our_dim: int, theirs: Iterable[Alignment], their_dim: int
) -> bool:
    """Return whether what an element depends on, of two sources, has one index along two dims."""
    known = [_indices(claim, their_dim) for claim in theirs]
    return all(_indices(claim, our_dim) & other for claim in ours for other in known)


def _indices(claim: Alignment, dim: int) -> set[tuple[int, int]]:
    """Return what the index along a dimension of the source is: a dimension of ours plus a shift.

    The dimension -1 stands for zero: there, the source has but one index.
    """
    here, there = by_dim(claim.here), by_dim(claim.there)
    first, end = there.get(dim, (0, 0))
    found = {(i, first - here.get(i, (0, 0))[0]) for i, d in enumerate(claim.dims) if d == dim}
    return found | {(-1, first)} if end - first == 1 else found


def suggest_guide_order(trace: Trace) -> dict[str, frozenset[str]]:
    """Return the latent sites in an order for a guide, each with those it must be conditional on.

    With these parents, and the data, a guide can be the posterior exactly; in this order none of
    them can be left out. A conditional is one of all elements of a site together:
    `posterior_dependencies` tells along which plates they are dependent.

    Latent sites that no data depends on come last, conditional on their parents in the model, whose
    posterior is what the model says.

    Raises:
        TypeError: if `trace` is none.
    """
    check_trace("suggest_guide_order", trace)
    known = factors(trace)
    model = nx.DiGraph()
    model.add_nodes_from(known)
    model.add_edges_from((parent, site.name) for site in known.values() for parent in site.incoming)
    data = {site.name for site in known.values() if not site.is_latent}
    needed = data.union(*(nx.ancestors(model, name) for name in data))
    moral = nx.moral_graph(model.subgraph(needed))
    moral.remove_nodes_from(data)
    places = {name: place for place, name in enumerate(known)}
    eliminated: list[tuple[str, frozenset[str]]] = []
    while moral:
        # Where there is a choice, the latest goes first, so that the guide follows the program.
        name = min(moral, key=lambda name: (_fill(moral, name), -places[name]))
        eliminated.append((name, frozenset(moral[name])))
        moral.add_edges_from(combinations(moral[name], 2))
        moral.remove_node(name)
    rest = {name: frozenset(known[name].incoming) for name in known if name not in needed}
    return {**dict(reversed(eliminated)), **rest}


def _fill(graph: nx.Graph, name: str) -> int:
    """Return how many edges are added if a node is eliminated."""
    return sum(not graph.has_edge(a, b) for a, b in combinations(graph[name], 2))
