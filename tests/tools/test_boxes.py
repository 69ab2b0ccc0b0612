"""Frames: plates and modules nested around nodes, and words where a frame cannot be drawn."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ancestral.provenance.algebra.alignment import Alignment
from ancestral.tools.render.clusters import boxes
from ancestral.tools.render.dot import dot, prefix
from ancestral.tools.render.fold_loops import folded, unfolded
from ancestral.tools.render.render import picture
from ancestral.trace.context.place import Location
from ancestral.trace.graph.find_plates import Extent
from ancestral.trace.graph.graph import Edge, Graph, Vertex

GOLDEN = Path(__file__).parent / "golden"
NAMES = "abcd"


def vertex(name: str, module_path: str = "", shape: tuple[int, ...] = (4, 3)) -> Vertex:
    kind = "cost" if name.startswith("c") else "score"
    location = Location("/nowhere/model.py", 7, "forward")
    return Vertex(name, kind, "" if kind == "cost" else "Normal", shape, location, module_path)


def extent(name: str, *sites: str, is_declared: bool = False, dim: int | None = 0) -> Extent:
    return Extent(name, 4, 4, tuple((site, dim) for site in sites), is_declared)


def around(graph: Graph) -> dict[str, list[str]]:
    """Return the names of the frames around each vertex, outermost first."""
    paths = boxes(unfolded(graph), graph.plates).paths
    return {v.name: [b.name for b in p] for v, p in zip(graph.vertices, paths, strict=True)}


def topics() -> Graph:
    """Return documents of words, a plate within a plate, and topics beside them."""
    return Graph(
        (
            vertex("phi", shape=(6,)),
            vertex("theta", shape=(20,)),
            vertex("z", shape=(30, 20)),
            vertex("cost", shape=(30, 20)),
        ),
        (
            Edge("theta", "z", Alignment((-1, 0))),
            Edge("z", "cost", Alignment((0, 1))),
            Edge("phi", "cost", Alignment((-1, -1))),
        ),
        (
            Extent("topics", 6, 6, (("phi", 0),), is_declared=True),
            Extent("docs", 1000, 20, (("theta", 0), ("z", 1), ("cost", 1)), is_declared=True),
            Extent("plate_0", 30, 30, (("z", 0), ("cost", 0))),
        ),
    )


def test_the_text_of_nested_plates_is_the_golden_one() -> None:
    text = dot(topics()).replace(prefix(topics()), "ID")
    assert text == (GOLDEN / "topics.dot").read_text()


def test_a_found_plate_that_overlaps_a_declared_one_is_told_in_words() -> None:
    graph = Graph(
        tuple(map(vertex, "uvfr")),
        (),
        (extent("plate_0", "u", "v", "r", dim=1), extent("films", "f", "r", is_declared=True)),
    )
    assert around(graph) == {"u": [], "v": [], "f": ["films"], "r": ["films"]}
    lines = [line for line in dot(graph).splitlines() if "dimension 1: plate_0<" in line]
    assert [re.findall("<b>(.)</b>", line) for line in lines] == [["u"], ["v"], ["r"]]
    assert "dimension 0: plate films<" not in dot(graph)


def test_a_declared_plate_that_overlaps_a_larger_one_is_drawn_in_parts() -> None:
    graph = Graph(
        tuple(map(vertex, "uvfr")),
        (),
        (
            extent("users", "u", "v", "r", is_declared=True),
            extent("films", "f", "r", is_declared=True, dim=1),
        ),
    )
    assert around(graph) == {
        "u": ["users"],
        "v": ["users"],
        "f": ["films"],
        "r": ["users", "films"],
    }
    assert dot(graph).count("films  4<") == 2
    assert "plate films<" not in dot(graph)


def test_a_found_plate_of_one_node_has_no_frame_and_a_declared_one_has() -> None:
    plates = (extent("plate_0", "a"), extent("data", "b", is_declared=True))
    graph = Graph((vertex("a"), vertex("b")), (), plates)
    assert around(graph) == {"a": [], "b": ["data"]}
    (line,) = (line for line in dot(graph).splitlines() if "<b>a</b>" in line)
    assert "plate_0" in line.split("tooltip")[1]
    assert "plate_0" not in line.split("tooltip")[0]


def test_plates_of_the_same_sites_nest_with_the_first_outside() -> None:
    graph = Graph(
        (vertex("a"), vertex("b")), (), (extent("x", "a", "b"), extent("y", "a", "b", dim=1))
    )
    assert around(graph) == {"a": ["x", "y"], "b": ["x", "y"]}


def test_a_plate_is_within_the_modules_that_hold_all_of_it_and_around_the_others() -> None:
    graph = Graph(
        (vertex("a", "net.enc"), vertex("b", "net.dec.head"), vertex("d", "net.dec")),
        (),
        (extent("data", "a", "b", is_declared=True),),
    )
    assert around(graph) == {
        "a": ["net", "data", "enc"],
        "b": ["net", "data", "dec", "head"],
        "d": ["net", "dec"],
    }
    text = dot(graph)
    ids = re.findall(r'\bid="?([^"\s\]]*)', text)
    assert len(ids) == len(set(ids))
    assert text.count("labelloc=t") == 4
    assert text.count("labelloc=b") == 1


def test_a_plate_in_turn_holds_the_repeats_folded_or_not() -> None:
    steps = Extent("t", 2, 2, (("z", None), ("z_1", None)), is_declared=True)
    graph = Graph((vertex("z"), vertex("z_1"), vertex("w")), (), (steps,))
    assert around(graph) == {"z": ["t"], "z_1": ["t"], "w": []}
    paths = boxes(folded(graph), graph.plates).paths
    assert [[box.name for box in path] for path in paths] == [["t"], []]
    assert "2 in turn" in dot(graph, is_folded=True)


def test_a_fold_of_which_a_part_is_in_a_plate_is_outside() -> None:
    graph = Graph((vertex("z"), vertex("z_1")), (), (extent("t", "z", is_declared=True),))
    assert boxes(folded(graph), graph.plates).paths == ((),)


def test_the_legend_explains_frames_where_there_are_any() -> None:
    assert "frame with a number = plate" in dot(topics())
    assert "frame" not in dot(Graph((vertex("a"),), (), (extent("plate_0", "a"),)))


def test_the_engine_draws_each_frame_around_its_nodes() -> None:
    root = ElementTree.fromstring(picture(topics(), "svg"))
    spans: dict[str, tuple[float, float, float, float]] = {}
    for group in root.iter("{http://www.w3.org/2000/svg}g"):
        if group.get("class") == "cluster plate":
            corners = next(group.iter("{http://www.w3.org/2000/svg}polygon")).get("points", "")
            pairs = [pair.split(",") for pair in corners.split()]
            xs, ys = [float(x) for x, _ in pairs], [float(y) for _, y in pairs]
            text = "".join(next(group.iter("{http://www.w3.org/2000/svg}text")).itertext())
            spans[text.replace("\xa0", " ")] = min(xs), max(xs), min(ys), max(ys)
    outer, inner, other = spans["docs  20 of 1000"], spans["30"], spans["topics  6"]
    assert outer[0] < inner[0] < inner[1] < outer[1]
    assert outer[2] < inner[2] < inner[3] < outer[3]
    assert other[1] < outer[0] or outer[1] < other[0]


@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1), max_size=5), st.booleans())
def test_frames_that_were_found_are_nested_or_apart(sets: list[set[str]], deep: bool) -> None:
    vertices = [vertex(name, f"m.{name}" if deep and name != "a" else "") for name in NAMES]
    plates = tuple(
        extent(f"p{i}", *sorted(members)) for i, members in enumerate(sets) if len(members) > 1
    )
    found = boxes(unfolded(Graph(tuple(vertices), (), plates)), plates)
    held = {
        plate: {n for n, path in zip(NAMES, found.paths, strict=True) if plate.name in dict(path)}
        for plate in plates
    }
    for plate, members in held.items():
        assert members == (set() if plate in found.undrawn else set(plate.sites))
        for other in held.values():
            assert not members & other or members <= other or other <= members


@given(st.lists(st.sets(st.sampled_from(NAMES), min_size=1), max_size=5), st.data())
def test_every_declared_plate_has_its_frame(sets: list[set[str]], data: st.DataObject) -> None:
    plates = tuple(
        extent(f"p{i}", *sorted(members), is_declared=data.draw(st.booleans()))
        for i, members in enumerate(sets)
    )
    graph = Graph(tuple(map(vertex, NAMES)), (), plates)
    frames = around(graph)
    for plate in plates:
        if plate.is_declared:
            assert [n for n in NAMES if plate.name in frames[n]] == list(plate.sites)
            assert f"plate {plate.name}<" not in dot(graph)
    ids = re.findall(r'\bid="?([^"\s\]]*)', dot(graph))
    assert len(ids) == len(set(ids))
