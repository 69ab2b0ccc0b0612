"""Graph: vertices in their order, direct edges only, costs numbered."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Independent, Normal

import ancestral as an
from ancestral.provenance.algebra.alignment import Alignment
from ancestral.trace.graph.graph import Edge, Graph


def chain() -> tuple[an.Trace, Tensor]:
    """Run a chain of three sites, an observation, and a loss of three costs."""
    p = torch.full((4, 3), 0.4, requires_grad=True)
    pixels = torch.zeros(4, 3)
    with an.record() as trace:
        a = Bernoulli(p).sample()
        b = Normal(a, 1.0).rsample()
        c = Independent(Bernoulli(logits=b), 1).sample()
        fit = Normal(c, 1.0).log_prob(pixels)
        loss = a.exp().sum() + (b * c).mean() - fit.sum()
    return trace, loss


def test_edges_are_direct() -> None:
    graph = chain()[0].graph
    assert [v.name for v in graph.vertices] == ["a", "b", "c", "pixels"]
    assert [(e.parent, e.child) for e in graph.edges] == [("a", "b"), ("b", "c"), ("c", "pixels")]
    assert graph.parents("c") == {"b"}
    assert graph.children("a") == {"b"}
    assert graph.parents("a") == graph.children("pixels") == frozenset()


def test_a_vertex_knows_its_kind_distribution_shape_and_line() -> None:
    graph = chain()[0].graph
    found = {v.name: (v.kind, v.distribution, v.shape) for v in graph.vertices}
    assert found == {
        "a": ("score", "Bernoulli", (4, 3)),
        "b": ("pathwise", "Normal", (4, 3)),
        "c": ("score", "Bernoulli", (4, 3)),
        "pixels": ("observed", "Normal", (4, 3)),
    }
    assert {v.location.filename for v in graph.vertices} == {__file__}


def test_an_edge_keeps_the_alignment() -> None:
    p = torch.full((4, 3), 0.4, requires_grad=True)
    with an.record() as trace:
        a = Bernoulli(p).sample()
        turned = Bernoulli(a.T * 0.5 + 0.2).sample()
        row = Bernoulli(a.mean(0) * 0.5 + 0.2).sample()
        coin = Bernoulli(a.mean() * 0.5 + 0.2).sample()
    assert [e.alignment.dims for e in trace.graph.edges] == [(1, 0), (1,), ()]
    assert [t.ndim for t in (turned, row, coin)] == [2, 1, 0]


def test_a_site_with_two_parents_has_two_edges() -> None:
    p = torch.full((3,), 0.4, requires_grad=True)
    with an.record() as trace:
        a = Bernoulli(p).sample()
        b = Bernoulli(p).sample()
        c = Bernoulli(logits=a + b[0]).sample()
    assert trace.graph.parents("c") == {"a", "b"}
    whole, one = Alignment((0,)), Alignment((-1,), there=((0, 0, 1),))
    assert set(trace.graph.edges) == {Edge("a", "c", whole), Edge("b", "c", one)}
    assert c.shape == (3,)


def test_the_costs_of_a_loss_appear_numbered_once_its_gradient_was_asked() -> None:
    trace, loss = chain()
    assert len(trace.graph.vertices) == 4
    an.backward(loss)
    graph = trace.graph
    costs = [v for v in graph.vertices if v.kind == "cost"]
    assert [v.name for v in costs] == ["cost", "cost_1"]
    assert {(graph.parents(v.name), v.shape) for v in costs} == {
        (frozenset("a"), (4, 3)),
        (frozenset("bc"), (4, 3)),
    }


def test_a_declared_cost_is_a_vertex_and_numbers_go_past_it() -> None:
    p = torch.full((3,), 0.4, requires_grad=True)
    with an.record() as trace:
        z = Bernoulli(p).sample()
        declared = an.cost("cost", z * 2)
        loss = z.exp().sum() + z.cos().sum()
    an.backward(loss)
    names = [v.name for v in trace.graph.vertices]
    assert names == ["z", "cost", "cost_1", "cost_2"]
    assert trace.graph.children("z") == {"cost", "cost_1", "cost_2"}
    assert declared.shape == (3,)


def test_sources_that_are_no_sites_are_left_out() -> None:
    p = torch.full((3,), 0.4, requires_grad=True)
    with an.record() as trace:
        mine = an.track(torch.ones(3), "mine")
        z = Bernoulli(p * mine).sample()
    assert trace["z"].parents == {"mine"}
    assert trace.graph.edges == ()
    assert z.shape == (3,)


def test_a_graph_prints_every_vertex_with_its_parents() -> None:
    p = torch.full((3,), 0.4, requires_grad=True)
    with an.record() as trace:
        a = Bernoulli(p).sample()
        b = Bernoulli(p).sample()
        c = Normal(a * b, 1.0).rsample()
        an.cost("energy", c.sum())
    assert str(trace.graph).splitlines() == [
        "a ~ Bernoulli[3]",
        "b ~ Bernoulli[3]",
        "c ~ Normal[3] <- a <- b",
        "energy ~ cost[] <- c",
    ]
    assert str(Graph()) == ""


def test_a_graph_is_a_value_that_holds_no_tensor() -> None:
    graph, other = chain()[0].graph, chain()[0].graph
    assert graph == other
    assert hash(graph) == hash(other)
    with pytest.raises(dataclasses.FrozenInstanceError):
        graph.edges = ()  # type: ignore[misc]
    values = [getattr(v, f.name) for v in graph.vertices for f in dataclasses.fields(v)]
    assert not any(isinstance(value, Tensor) for value in values)
