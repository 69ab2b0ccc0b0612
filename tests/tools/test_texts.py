"""Texts: a graph as Mermaid, GraphML and JSON, read back by others."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.provenance.algebra.alignment import Alignment
from ancestral.trace.context.place import Location
from ancestral.trace.graph.graph import Edge, Graph, Vertex


@pytest.fixture
def graph() -> Graph:
    def model() -> Any:
        h1 = Bernoulli(logits=torch.zeros(6, 4, requires_grad=True)).sample()
        h2 = Bernoulli(logits=h1.sum(1)).sample()
        an.cost("low", (h2 - 0.3) ** 2)

    return an.graph(model)


def test_graphml_is_read_back_by_networkx(graph: Graph, tmp_path: Path) -> None:
    found = nx.read_graphml(graph.render(tmp_path / "g.graphml"))
    assert set(found.edges) == {(edge.parent, edge.child) for edge in graph.edges}
    assert {n: (d["kind"], d["distribution"], d["shape"]) for n, d in found.nodes(data=True)} == {
        v.name: (v.kind, v.distribution, json.dumps(list(v.shape))) for v in graph.vertices
    }
    assert found.edges["h1", "h2"]["alignment"] == "0"


def test_json_has_all_that_the_graph_has(graph: Graph, tmp_path: Path) -> None:
    found = json.loads(graph.render(tmp_path / "g.json").read_text())
    for vertex, known in zip(graph.vertices, found["vertices"], strict=True):
        location = Location(**known.pop("location"))
        assert Vertex(**{**known, "shape": tuple(known["shape"])}, location=location) == vertex
    assert [(e["parent"], e["child"]) for e in found["edges"]] == [
        (e.parent, e.child) for e in graph.edges
    ]
    assert [p["name"] for p in found["plates"]] == [p.name for p in graph.plates]


def test_mermaid_has_a_node_for_each_vertex_and_an_arrow_for_each_edge(
    graph: Graph, tmp_path: Path
) -> None:
    text = graph.render(tmp_path / "g.mmd").read_text()
    lines = text.splitlines()
    assert lines[0] == "flowchart TD"
    assert sum(":::" in line for line in lines) == len(graph.vertices)
    assert sum("-->" in line or "-.->" in line for line in lines) == len(graph.edges)
    assert text.count("subgraph ") == text.count("\n  end") + text.count("\n    end")
    assert 'n0(["h1<br/>Bernoulli<br/>[6, 4]"]):::score' in text


def test_names_of_any_text_are_no_markup(tmp_path: Path) -> None:
    name = 'a"]<b>`&#x'
    here = Location("m.py", 1, "f")
    graph = Graph(
        (Vertex(name, "score", "Normal", (), here), Vertex("c\x00", "cost", "", (), here)),
        (Edge(name, "c\x00", Alignment(())),),
    )
    assert "#quot;]#lt;b#gt;#96;#amp;#x" in graph.render(tmp_path / "g.mmd").read_text()
    found = nx.read_graphml(graph.render(tmp_path / "g.graphml"))
    assert set(found) == {name, "c\\x00"}
