"""Loops: steps that repeat are one plate of the picture; arrows that others imply are left out."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Dirichlet, Independent, Normal

import ancestral as an
from ancestral.provenance.algebra.alignment import Alignment
from ancestral.tools.render.clusters import boxes
from ancestral.tools.render.dot import dot
from ancestral.tools.render.simplify import sketched
from ancestral.trace.context.place import Location
from ancestral.trace.graph.find_plates import Extent
from ancestral.trace.graph.graph import Edge, Graph, Vertex

Step = tuple[str, int]


def loop(count: int, *arrows: tuple[str, str, int], more: dict[str, int] | None = None) -> Graph:
    """Return draws a, b ... in steps, with arrows from one to another that span some steps."""
    names = sorted({name for parent, child, _ in arrows for name in (parent, child)})
    counts = dict.fromkeys(names, count) | (more or {})
    vertices = [
        Vertex(f"{name}_{t}", "score", "Normal", (4,), Location("m.py", line, "f"))
        for line, name in enumerate(counts)
        for t in range(counts[name])
    ]
    known = {vertex.name for vertex in vertices}
    edges = [
        Edge(f"{parent}_{t}", f"{child}_{t + lag}", Alignment((0,)))
        for parent, child, lag in arrows
        for t in range(count)
        if f"{child}_{t + lag}" in known
    ]
    return Graph(tuple(vertices), tuple(edges))


def frames(graph: Graph, *, is_folded: bool | None = None) -> dict[str, list[str]]:
    """Return the names of the frames around each node of the picture, by its title."""
    sketch, _ = sketched(graph, is_folded)
    paths = boxes(sketch, graph.plates).paths
    named = zip(sketch.groups, paths, strict=True)
    return {group.title: [box.name for box in path] for group, path in named}


def arrows(graph: Graph) -> dict[tuple[str, str], str]:
    sketch, _ = sketched(graph)
    titles = [group.title for group in sketch.groups]
    return {(titles[a.parent], titles[a.child]): a.label for a in sketch.arrows}


class Policy(nn.Module):
    """Draws an action in each step, by all before, and pays a cost for each."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.head, self.next = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(3, 4)

    def forward(self, steps: int = 15) -> Tensor:
        h, loss = torch.zeros(16, 4), torch.zeros(())
        for _ in range(steps):
            action = Categorical(logits=self.head(h)).sample()
            h = torch.tanh(self.state(h) + self.next.weight.T[action])
            loss = loss + h.square().sum(1).mean()
        return loss


def size_of(path: Path) -> tuple[float, float]:
    root = ElementTree.fromstring(path.read_bytes())
    width, height = (float(root.get(side, "").removesuffix("pt")) for side in ("width", "height"))
    return width, height


def test_a_rollout_of_15_steps_with_a_cost_each_is_a_small_picture(tmp_path: Path) -> None:
    graph = an.graph(Policy())
    assert len(graph.edges) == 225
    width, height = size_of(graph.render(tmp_path / "a.svg"))
    assert max(width, height) < 400
    shown = (tmp_path / "a.svg").read_text()
    for words in (
        "action[t]",
        "cost[t]",
        "t = 0..14",
        "now and later",
        "> later<",
        "steps of a loop",
    ):
        assert words.replace(" ", "\xa0") in shown.replace(" ", "\xa0")
    assert arrows(graph) == {
        ("action[0..14]", "action[0..14]"): "later",
        ("action[0..14]", "cost[0..14]"): "now and later",
    }
    assert frames(graph) == {
        "action[0..14]": ["t = 0..14", "plate_0"],
        "cost[0..14]": ["t = 0..14", "plate_0"],
    }


def test_the_steps_one_by_one_are_a_narrow_picture(tmp_path: Path) -> None:
    graph = an.graph(Policy())
    width, _ = size_of(graph.render(tmp_path / "a.svg", is_folded=False))
    assert width < 500
    shown = (tmp_path / "a.svg").read_text().replace("\xa0", " ")
    assert "196 arrows are left out that others imply" in shown
    assert "cost_14" in shown


def test_a_program_of_named_steps_is_a_plate_of_its_counters(tmp_path: Path) -> None:
    def model() -> None:
        z = torch.zeros(6)
        with an.plate("sequences", 6):
            for t in range(3, 9):
                z = an.sample(f"z_{t}", Bernoulli(logits=z))
                an.sample(f"x_{t}", Normal(z, 1.0), obs=torch.zeros(6))

    graph = an.graph(model)
    assert arrows(graph) == {("z[3..8]", "z[3..8]"): "next", ("z[3..8]", "x[3..8]"): ""}
    assert set(map(tuple, frames(graph).values())) == {("sequences", "t = 3..8")}
    assert "z[t]" in graph.render(tmp_path / "a.dot").read_text()


@pytest.mark.parametrize(
    ("graph", "labels"),
    [
        (loop(5, ("a", "b", 0)), {"ab": ""}),
        (loop(5, ("a", "b", 1)), {"ab": "next"}),
        (loop(5, ("a", "b", 2)), {"ab": "later"}),
        (loop(5, ("a", "b", 0), ("a", "b", 1)), {"ab": "now and later"}),
        (
            loop(5, ("a", "a", 1), ("a", "b", 0), ("b", "a", 1)),
            {"aa": "next", "ab": "", "ba": "next"},
        ),
    ],
)
def test_an_arrow_says_in_which_steps_the_children_are(
    graph: Graph, labels: dict[str, str]
) -> None:
    found = {parent[0] + child[0]: label for (parent, child), label in arrows(graph).items()}
    assert found == labels
    assert all(path == ["t = 0..4"] for path in frames(graph).values())


def test_few_steps_are_drawn_one_by_one_unless_it_is_asked_for() -> None:
    graph = loop(3, ("a", "b", 0), ("a", "a", 1))
    assert list(frames(graph)) == ["a_0", "a_1", "a_2", "b_0", "b_1", "b_2"]
    assert frames(graph, is_folded=True) == {"a[0..2]": ["t = 0..2"], "b[0..2]": ["t = 0..2"]}
    assert len(frames(loop(9, ("a", "a", 1)), is_folded=False)) == 9


def test_what_repeats_another_number_of_times_or_looks_ahead_is_a_loop_of_its_own() -> None:
    graph = loop(6, ("a", "a", 1), ("b", "b", 1), ("a", "b", 0), more={"b": 5})
    assert frames(graph) == {"a[0..5]": ["t = 0..5"], "b[0..4]": ["t = 0..4"]}
    graph = loop(6, ("a", "a", 1), ("b", "b", 1), ("a", "b", 0), ("a", "b", -1))
    assert frames(graph) == {"a[0..5]": ["t = 0..5"], "b[0..5]": ["t = 0..5"]}
    sketch, _ = sketched(graph)
    assert len(sketch.loops) == 2
    assert frames(loop(6, ("a", "a", 7))) == {"a[0..5]": []}  # no arrow: nothing is in turn


def test_a_declared_plate_in_turn_is_the_loop() -> None:
    graph = loop(5, ("a", "b", 0))
    sites = tuple((vertex.name, None) for vertex in graph.vertices)
    plate = Extent("data", 5, 5, sites, is_declared=True)
    declared = Graph(graph.vertices, graph.edges, (plate,))
    assert frames(declared) == {"a[0..4]": ["data"], "b[0..4]": ["data"]}
    assert "a[0..4]" in dot(declared)
    assert "a[t]" not in dot(declared)


def test_a_loop_that_a_declared_plate_cuts_has_no_frame_of_its_own() -> None:
    graph = loop(5, ("a", "b", 0), ("c", "c", 1))
    held = tuple((v.name, 0) for v in graph.vertices if v.name[0] in "bc")
    plates = (Extent("data", 4, 4, held, is_declared=True),)
    assert frames(Graph(graph.vertices, graph.edges, plates)) == {
        "a[0..4]": [],
        "b[0..4]": ["data"],
        "c[0..4]": ["data", "t = 0..4"],
    }


def test_a_mixture_has_the_frames_of_its_plates() -> None:
    def model() -> None:
        weights = an.sample("weights", Dirichlet(torch.ones(3)))
        with an.plate("components", 3):
            places = an.sample("places", Independent(Normal(torch.zeros(3, 2), 1.0), 1))
        with an.plate("data", 20):
            z = an.sample("z", Categorical(weights))
            an.sample("x", Independent(Normal(places[z], 1.0), 1), obs=torch.zeros(20, 2))

    graph = an.graph(model)
    assert frames(graph) == {"weights": [], "places": ["components"], "z": ["data"], "x": ["data"]}
    assert [v.distribution for v in graph.vertices] == [
        "Dirichlet",
        "Normal",
        "Categorical",
        "Normal",
    ]


def test_a_text_that_is_generated_is_one_node() -> None:
    @torch.no_grad()
    def generate() -> Tensor:
        words = torch.zeros(4, 1, dtype=torch.long)
        for _ in range(12):
            chances = torch.softmax(words.sum(1, keepdim=True) * torch.ones(4, 3) * 0.1, 1)
            word = torch.multinomial(chances, num_samples=1).squeeze(1)
            words = torch.cat([words, word[:, None]], 1)
        return words.double().mean(1)

    graph = an.graph(generate)
    assert arrows(graph) == {("word[0..11]", "word[0..11]"): "later", ("word[0..11]", "cost"): ""}


@given(st.integers(0, 20), st.data())
def test_arrows_that_are_left_out_are_implied_by_those_that_are_drawn(
    count: int, data: st.DataObject
) -> None:
    names = [f"layer{i}x" for i in range(count)]
    pairs = [(a, b) for i, b in enumerate(names) for a in names[:i]]
    chosen = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    vertices = [
        Vertex(name, "score", "Normal", (), Location("m.py", line, "f"))
        for line, name in enumerate(names)
    ]
    graph = Graph(tuple(vertices), tuple(Edge(a, b, Alignment(())) for a, b in chosen))
    sketch, implied = sketched(graph)
    drawn = nx.DiGraph([(names[a.parent], names[a.child]) for a in sketch.arrows])
    assert len(sketch.arrows) + implied == len(chosen)
    assert set(drawn.edges) <= set(chosen)
    assert all(nx.has_path(drawn, a, b) for a, b in chosen)
    assert (f"{implied} arrows are left out" in dot(graph)) == (implied > 0)
    if count <= 12 or len(chosen) <= 2 * count:
        assert not implied


def test_two_loops_with_arrows_both_ways_are_drawn_whole() -> None:
    ring = [chr(97 + i) for i in range(13)]
    both = [(a, b, 0) for a, b in pairwise(ring)] + [(b, a, 1) for a, b in pairwise(ring)]
    graph = loop(4, *both, *((ring[i], ring[i + 2], 0) for i in range(11)))
    sketch, implied = sketched(graph)
    assert (len(sketch.groups), len(sketch.arrows), implied) == (13, 35, 0)


def test_a_picture_of_a_loop_says_what_its_frame_is() -> None:
    text = dot(loop(5, ("a", "b", 0)))
    assert "frame with t = steps of a loop" in text
    assert "frame with a number" not in text
    assert "5 steps of a loop, t = 0..4" in text
    assert re.search(r'tooltip="a\[0\.\.4\]', text)
