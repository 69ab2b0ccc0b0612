"""The DOT text: what it shows, that it is stable, and that any name is safe in it."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ancestral.provenance.algebra.alignment import Alignment
from ancestral.tools.render.dot import dot, prefix
from ancestral.tools.render.engines import lay_out
from ancestral.tools.render.facts import visible
from ancestral.tools.render.fold_loops import folded, unfolded
from ancestral.tools.render.looks import LOOKS
from ancestral.tools.render.render import picture
from ancestral.trace.context.place import Location
from ancestral.trace.graph.graph import Edge, Graph, Vertex
from ancestral.trace.graph.loop_names import stem

SVG = "{http://www.w3.org/2000/svg}"
NAMES = st.text() | st.text("\\nNG&#92;<>\"'[]{}| _1é")
GOLDEN = Path(__file__).parent / "golden"


def vertex(name: str, kind: str = "score", line: int = 7, module_path: str = "") -> Vertex:
    distribution = "" if kind == "cost" else "Normal"
    location = Location("/nowhere/model.py", line, "forward")
    return Vertex(name, kind, distribution, (32, 8), location, module_path)


def chain(length: int) -> Graph:
    """Return the graph of a loop that draws z and pays a cost at each step."""
    names = ["", *(f"_{t}" for t in range(1, length))]
    return Graph(
        tuple(vertex(f"z{n}") for n in names) + tuple(vertex(f"c{n}", "cost", 8) for n in names),
        tuple(Edge(f"z{n}", f"c{n}", Alignment((0, 1))) for n in names)
        + tuple(Edge(f"z{a}", f"z{b}", Alignment((0, -1))) for a, b in pairwise(names)),
    )


def vae() -> Graph:
    return Graph(
        (
            vertex("z", "pathwise", 5, "encoder"),
            vertex("x", "observed", 6, "decoder.head"),
            vertex("kl", "cost", 7),
        ),
        (Edge("z", "x", Alignment((0, -1))), Edge("z", "kl", Alignment((-1, -1)))),
    )


def line_of(text: str, name: str) -> str:
    """Return the line of DOT text that declares the node of a name."""
    (line,) = (line for line in text.splitlines() if f"<b>{name}</b>" in line)
    return line


def attribute(text: str, name: str, key: str) -> str:
    found = re.search(rf'\b{key}=("[^"]*"|\S+)', line_of(text, name))
    assert found, f"{name} has no {key}"
    return found[1].strip('"]')


def boxes_around(text: str, name: str) -> list[str]:
    """Return the labels of the boxes around a node, outermost first."""
    around: list[str] = []
    for line in text.splitlines()[1:]:
        if f"<b>{name}</b>" in line:
            return around
        if label := re.search(r"label=<<font[^>]*>([^<]*)</font>>.*labeljust", line):
            around.append(label[1])
        if line.strip() == "}":
            around.pop()
    raise LookupError(name)


def texts(root: ElementTree.Element, tag: str) -> set[str]:
    """Return the texts of all elements of a tag, whose second spaces are hard ones."""
    return {(element.text or "").replace("\xa0", " ") for element in root.iter(SVG + tag)}


def test_the_text_of_a_small_graph_is_the_golden_one() -> None:
    assert dot(vae()).replace(prefix(vae()), "ID") == (GOLDEN / "vae.dot").read_text()


def test_every_kind_differs_from_every_other_by_its_outline_alone() -> None:
    text = dot(Graph(tuple(vertex(kind, kind) for kind in LOOKS)))
    outlines = {(attribute(text, k, "shape"), attribute(text, k, "peripheries")) for k in LOOKS}
    assert len(outlines) == len(LOOKS) == 7


def test_only_observed_nodes_are_shaded() -> None:
    text = dot(Graph(tuple(vertex(kind, kind) for kind in LOOKS)))
    shade = {k: sum(bytes.fromhex(attribute(text, k, "fillcolor")[1:])) / 3 for k in LOOKS}
    assert shade["observed"] < 220
    assert all(shade[kind] > 235 for kind in LOOKS if kind != "observed")


def test_the_legend_names_the_kinds_that_occur() -> None:
    text = dot(Graph((vertex("z"), vertex("c", "cost"))))
    assert "ellipse = score site" in text
    assert "box = cost" in text
    assert "hexagon" not in text


def test_a_node_shows_distribution_shape_and_source_line(tmp_path: Path) -> None:
    source = tmp_path / "model.py"
    source.write_text("import torch\nz = Normal(0, 1).sample()\n")
    z = Vertex("z", "score", "Normal", (), Location(str(source), 2, "forward"))
    text = dot(Graph((z, vertex("w"))))
    assert "Normal, scalar" in line_of(text, "z")
    assert "Normal, [32, 8]" in line_of(text, "w")
    tooltip = attribute(text, "z", "tooltip")
    assert tooltip.split("\\n")[-2:] == ["model.py:2 in forward", "z = Normal(0, 1).sample()"]


def test_a_parent_without_dimensions_has_none_to_lose() -> None:
    z = Vertex("z", "score", "Normal", (), Location("m.py", 1, "f"))
    graph = Graph((z, vertex("c", "cost")), (Edge("z", "c", Alignment((-1, -1))),))
    assert "dashed" not in dot(graph)


def test_module_paths_are_nested_boxes_and_a_box_of_one_box_is_one() -> None:
    vertices = (
        vertex("a", line=1, module_path="net.layers.0"),
        vertex("b", line=2, module_path="net.layers.1.drop"),
        vertex("c", line=3, module_path="net.layers.1"),
    )
    text = dot(Graph(vertices))
    assert boxes_around(text, "a") == ["net.layers", "0"]
    assert boxes_around(text, "c") == ["net.layers", "1"]
    assert boxes_around(text, "b") == ["net.layers", "1", "drop"]


def test_every_box_has_its_own_id_class_and_tooltip() -> None:
    text = dot(Graph((vertex("a", module_path="p.q"), vertex("b", module_path="p.r"))))
    boxes = [part.split("]", 1)[0] for part in text.split("subgraph ")[1:]]
    tooltips = [re.search(r'\btooltip="?([\w.]+)', box) for box in boxes]
    assert [found and found[1] for found in tooltips] == ["p", "p.q", "p.r"]
    assert all("class=module" in box for box in boxes)
    ids = re.findall(r'\bid="?([^"\s]*)', text)
    assert len(ids) == len(set(ids)) == 1 + 3 + 2


def test_a_source_that_is_no_vertex_is_left_out() -> None:
    assert "->" not in dot(Graph((vertex("c", "cost"),), (Edge("gone", "c", Alignment((0, 1))),)))


def test_the_repeats_of_a_loop_stand_in_one_line() -> None:
    text = dot(chain(3))
    assert len({attribute(text, name, "group") for name in ("z", "z_1", "z_2")}) == 1
    assert attribute(text, "z", "group") != attribute(text, "c", "group")


def test_folding_draws_a_loop_as_one_node_with_an_arrow_to_itself() -> None:
    text = dot(chain(80), is_folded=True)
    assert "z[0..79]" in text
    assert "80 draws" in text
    assert "80 costs" in text
    arrows = [line for line in text.splitlines() if "->" in line]
    assert len(arrows) == 2
    assert ["next" in arrow for arrow in arrows] == [False, True]


def test_folding_tells_the_next_step_from_later_ones() -> None:
    three = Graph(
        chain(3).vertices,
        (
            Edge("z", "z_1", Alignment((0, 1))),
            Edge("z", "z_2", Alignment((0, 1))),
            Edge("z", "c_1", Alignment(())),
        ),
    )
    assert [arrow.label for arrow in folded(three).arrows] == ["later", "next"]


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["z", "z_1", "z_2"], "z[0..2]"),
        (["z[3]", "z[4]"], "z[3..4]"),
        (["z_1", "z_3"], "z_1 .. z_3"),
        (["z_0_0", "z_0_1", "z_1_0"], "z_0_0 .. z_1_0"),
    ],
)
def test_the_repeats_of_a_loop_are_named_by_their_counts(names: list[str], title: str) -> None:
    (group,) = folded(Graph(tuple(map(vertex, names)))).groups
    assert group.title == title


@pytest.mark.parametrize(
    "other",
    [
        vertex("z_1", line=8),
        vertex("z_1", module_path="layer"),
        vertex("z_1", "pathwise"),
        vertex("y_1"),
    ],
)
def test_only_one_line_one_module_one_kind_and_one_stem_make_a_loop(other: Vertex) -> None:
    assert len(folded(Graph((vertex("z"), other))).groups) == 2
    assert len(folded(Graph((vertex("z"), vertex("z_1")))).groups) == 1


@given(st.lists(st.text(max_size=4), unique=True, max_size=8), st.data())
def test_folding_loses_no_vertex_and_no_edge(names: list[str], data: st.DataObject) -> None:
    pairs = [(a, b) for a in names for b in names]
    chosen = data.draw(st.lists(st.sampled_from(pairs), unique=True) if pairs else st.just([]))
    graph = Graph(tuple(map(vertex, names)), tuple(Edge(a, b, Alignment(())) for a, b in chosen))
    for sketch in (folded(graph), unfolded(graph)):
        members = [member.name for group in sketch.groups for member in group.members]
        edges = [edge for arrow in sketch.arrows for edge in arrow.edges]
        assert sorted(members) == sorted(names)
        assert sorted((e.parent, e.child) for e in edges) == sorted(chosen)


@given(st.text())
def test_a_stem_is_the_beginning_of_its_name(name: str) -> None:
    assert name.startswith(stem(name))
    assert bool(stem(name)) == bool(name)


@settings(max_examples=100, deadline=None)
@given(st.lists(NAMES, min_size=1, max_size=3, unique=True), st.text(max_size=5))
def test_any_name_is_safe_and_shown_as_it_is(names: list[str], word: str) -> None:
    vertices = tuple(
        Vertex(name, kind, word, (2,), Location("/nowhere/model.py", 1, word), word)
        for name, kind in zip(names, LOOKS, strict=False)
    )
    edges = tuple(Edge(names[0], name, Alignment((0,))) for name in names[1:])
    graph = Graph(vertices, edges)
    root = ElementTree.fromstring(picture(graph, "svg"))
    tooltips = {line.split("\n")[0] for line in texts(root, "title")}
    words = texts(root, "text")
    shown = {visible(name) for name in names}
    assert shown <= tooltips
    assert {name for name in shown if len(name) < 36} <= words
    lay_out(dot(graph, is_folded=True), "png")
