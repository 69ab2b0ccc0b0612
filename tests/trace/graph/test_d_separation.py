"""Queries: d-separation is that of its definition, and unknown names are named."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.errors import SiteError
from ancestral.provenance.algebra.alignment import Alignment
from ancestral.trace.context.place import Location
from ancestral.trace.graph.graph import Edge, Graph, Vertex


def graph_of(edges: dict[str, str], kind: str = "score") -> Graph:
    """Return a graph of scalar sites, given the parents of each."""
    here = Location("here.py", 1, "here")
    vertices = tuple(Vertex(name, kind, "Normal", (), here) for name in edges)
    return Graph(
        vertices, tuple(Edge(p, child, Alignment(())) for child in edges for p in edges[child])
    )


def test_sets_of_names_are_asked_for_at_once() -> None:
    graph = graph_of({"a": "", "b": "", "c": "ab", "d": "c", "e": "b"})
    assert graph.d_separated({"a"}, {"b", "e"})
    assert not graph.d_separated({"a", "b"}, "e")
    assert graph.d_separated(["a", "c", "d"], ("e",), {"b"})
    assert not graph.d_separated("a", {"b", "e"}, "d")


def test_what_is_given_is_independent_of_everything_and_else_nothing_is_of_itself() -> None:
    graph = graph_of({"a": "", "b": "a"})
    assert not graph.d_separated("a", "a")
    assert graph.d_separated("a", "a", "a")
    assert graph.d_separated("a", {"a", "b"}, {"a"})
    assert not graph.d_separated({"a", "b"}, "b", {"a"})
    assert graph.d_separated("a", [])


def test_parents_children_ancestors_and_descendants() -> None:
    graph = graph_of({"a": "", "b": "a", "c": "b", "d": "ab"})
    assert graph.parents("d") == set("ab")
    assert graph.children("a") == set("bd")
    assert graph.ancestors("c") == set("ab")
    assert graph.descendants("a") == set("bcd")
    assert graph.ancestors("a") == graph.descendants("c") == set()


def test_the_topological_order_is_program_order_where_that_is_one() -> None:
    assert graph_of({"b": "", "a": "", "c": "a"}).topological_order() == ("b", "a", "c")
    assert graph_of({"c": "a", "b": "", "a": ""}).topological_order() == ("b", "a", "c")
    assert Graph().topological_order() == ()


def test_a_circle_has_no_order() -> None:
    with pytest.raises(SiteError, match=r"depend on each other: \w -> \w$"):
        graph_of({"a": "b", "b": "a"}).topological_order()


QUERIES: dict[str, Callable[[Graph], object]] = {
    "parents": lambda g: g.parents("zz"),
    "children": lambda g: g.children("zz"),
    "ancestors": lambda g: g.ancestors("zz"),
    "descendants": lambda g: g.descendants("zz"),
    "markov_blanket": lambda g: g.markov_blanket("zz"),
    "d_separated from": lambda g: g.d_separated("zz", "a"),
    "d_separated of": lambda g: g.d_separated("a", {"zz"}),
    "d_separated given": lambda g: g.d_separated("a", "b", ["zz"]),
}


@pytest.mark.parametrize("query", QUERIES)
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(query: str) -> None:
    graph = graph_of({"a": "", "b": "a"})
    with pytest.raises(SiteError, match="no vertex 'zz'; it has 'a', 'b'"):
        QUERIES[query](graph)


def test_of_many_names_some_are_listed() -> None:
    graph = graph_of({f"z{i}": "" for i in range(100)})
    with pytest.raises(an.errors.SiteError, match="'z19' and 80 more"):
        graph.parents("z100")
    with pytest.raises(an.errors.SiteError, match="it has none"):
        Graph().parents("z")


def test_networkx_is_given_a_graph_of_its_own_with_what_is_known_of_each_site() -> None:
    with an.record() as trace:
        z = an.sample("z", Bernoulli(torch.tensor(0.4)))
        with an.plate("data", 3):
            an.sample("x", Normal(z, 1.0), obs=torch.zeros(3))
    graph = trace.graph
    found = graph.to_networkx()
    assert found.nodes["z"] == dict(kind="score", distribution="Bernoulli", shape=(), plates=())
    plates = ("data",)
    assert found.nodes["x"] == dict(
        kind="observed", distribution="Normal", shape=(3,), plates=plates
    )
    assert [found.edges[e.parent, e.child]["alignments"] for e in graph.edges] == [
        (e.alignment,) for e in graph.edges
    ]
    found.remove_node("z")
    assert graph.parents("x") == {"z"}


def test_queries_leave_a_graph_the_value_that_it_is() -> None:
    graph, other = (graph_of({"a": "", "b": "a"}) for _ in range(2))
    assert graph.d_separated("a", "b") is False
    assert graph == other
    assert hash(graph) == hash(other)


def test_the_moral_graph_is_that_of_the_density() -> None:
    with an.record() as trace:
        a, b = an.sample("a", Normal(0.0, 1.0)), an.sample("b", Normal(0.0, 1.0))
        an.deterministic("total", a + b)
        an.cost("energy", a * b)
    assert set(trace.graph.moralized()) == {"a", "b"}
    assert not trace.graph.moralized().edges()
    assert trace.graph.markov_blanket("a") == set()


def value(z: Tensor) -> None:
    an.sample("x", Normal(0.0, 1.0), obs=z * 2)


def masked(z: Tensor) -> None:
    with an.control_scope(), an.handlers.mask(z > 0):
        an.sample("x", Normal(0.0, 1.0), obs=torch.tensor(0.3))


def scaled(z: Tensor) -> None:
    with an.control_scope():
        weigh = an.handlers.scale(z.exp())
    with weigh:
        an.sample("x", Normal(0.0, 1.0), obs=torch.tensor(0.3))


@pytest.mark.parametrize("observe", [value, masked, scaled])
def test_a_density_depends_on_a_site_by_its_value_its_mask_or_its_scale(
    observe: Callable[[Tensor], None],
) -> None:
    with an.record() as trace:
        observe(an.sample("z", Normal(0.0, 1.0)))
    assert trace.graph.parents("x") == {"z"}


def test_elements_stay_apart_in_what_a_mask_adds() -> None:
    with an.record() as trace:
        z = an.sample("z", Normal(torch.zeros(3), 1.0))
        with an.handlers.mask(z > 0):
            an.sample("x", Normal(torch.zeros(2, 3), 1.0), obs=torch.zeros(2, 3))
            event_dims = torch.distributions.Independent(Normal(torch.zeros(3, 2), 1.0), 1)
            an.sample("y", event_dims, obs=torch.zeros(3, 2))
    dims = {edge.child: edge.alignment.dims for edge in trace.graph.edges}
    assert dims == {"x": (-1, 0), "y": (-1, -1)}


def test_observed_elements_do_not_depend_on_those_that_are_drawn_in_their_place() -> None:
    with an.record() as trace:
        seen = torch.tensor([True, False])
        an.sample("x", Normal(torch.zeros(2), 1.0), obs=torch.ones(2), obs_mask=seen)
    assert trace.graph.parents("x_observed") == set()
    assert trace.graph.parents("x") == {"x_observed", "x_unobserved"}


def test_a_trace_around_two_runs_tells_their_sites_of_one_name_apart() -> None:
    def model() -> None:
        z = an.sample("z", Normal(0.0, 1.0))
        an.sample("x", Normal(z, 1.0), obs=torch.tensor(0.3))

    with an.record() as outer:
        with an.record():
            an.sample("z", Normal(0.0, 1.0))
        with an.record() as inner, an.handlers.condition({"z": torch.tensor(0.3)}):
            model()
    assert inner.graph.parents("x") == {"z"}
    assert outer.graph.parents("x") == {"z_1"}
