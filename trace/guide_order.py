"""Guide order: what an exact guide conditions each latent site on, and in which order it draws.

Webb et al. (2018), "Faithful inversion of generative models for effective amortized inference",
algorithm 1: the latent sites are eliminated from the moral graph one after the other, that which
adds the fewest edges first; each is conditional on what its neighbours are by then, and the guide
draws them the other way round. The data is given throughout.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.primitives import sample
>>> from ancestral.trace.record import record
>>> with record() as trace:
...     a, b = sample("a", Normal(0.0, 1.0)), sample("b", Normal(0.0, 1.0))
...     x = sample("x", Normal(a + b, 1.0), obs=torch.tensor(0.3))
>>> suggest_guide_order(trace)
{'a': frozenset(), 'b': frozenset({'a'})}
"""

from itertools import combinations

import networkx as nx

from ancestral.trace.dependencies import factors
from ancestral.trace.expecting import check_trace
from ancestral.trace.trace import Trace


def suggest_guide_order(trace: Trace) -> dict[str, frozenset[str]]:
    """Return the latent sites in an order for a guide, each with those it must be conditional on.

    With these parents, and the data, a guide can be the posterior exactly; in this order none of
    them can be left out. A conditional is one of all elements of a site together: along which
    plates they are dependent is told by `posterior_dependencies`.

    Latent sites that no data depends on come last, conditional on their parents in the model, whose
    posterior is what the model says.

    Raises:
        TypeError: if `trace` is none.
    """
    check_trace("suggest_guide_order", trace)
    known = factors(trace)
    model = nx.DiGraph()
    model.add_nodes_from(known)
    model.add_edges_from((parent, site.name) for site in known.values() for parent in site.inflow)
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
    rest = {name: frozenset(known[name].inflow) for name in known if name not in needed}
    return {**dict(reversed(eliminated)), **rest}


def _fill(graph: nx.Graph, name: str) -> int:
    """Return how many edges are added if a node is eliminated."""
    return sum(not graph.has_edge(a, b) for a, b in combinations(graph[name], 2))
