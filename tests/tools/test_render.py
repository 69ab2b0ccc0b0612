"""Render: files in four formats that are never half written, and pictures in notebooks."""

import re
import stat
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from ancestral.provenance.algebra.alignment import Alignment
from ancestral.tools.render import engines
from ancestral.tools.render.engines import LayoutTimeoutError, NoEngineError
from ancestral.tools.render.render import mimebundle, picture, render, to_html
from ancestral.trace.context.place import Location
from ancestral.trace.graph.drawing import install
from ancestral.trace.graph.graph import Edge, Graph, Vertex

SVG = "{http://www.w3.org/2000/svg}"
PYTHON = sys.executable
REAL = engines.find("graphviz-pure")
HERE = Location(__file__, 1, "model")


def chain(length: int) -> Graph:
    """Return the graph of a loop in which every draw depends on all before it."""
    names = ["z", *(f"z_{t}" for t in range(1, length))]
    vertices = tuple(Vertex(n, "score", "Bernoulli", (4,), HERE) for n in names)
    return Graph(
        vertices, tuple(Edge(a, b, Alignment((0,))) for i, b in enumerate(names) for a in names[:i])
    )


def model(name: str = "z") -> Graph:
    return Graph(
        (
            Vertex(name, "pathwise", "Normal", (4,), HERE, "net.layer1"),
            Vertex("x", "observed", "Normal", (4,), HERE),
            Vertex("loss", "cost", "", (), HERE),
        ),
        (Edge(name, "x", Alignment((0,))), Edge("x", "loss", Alignment(()))),
    )


def slow(folder: Path, condition: str) -> None:
    """Write an engine that hangs on some DOT texts and draws the others."""
    path = folder / "graphviz-pure"
    path.write_text(
        f"#!{PYTHON} -S\nimport subprocess, sys, time\ndot = sys.stdin.read()\n"
        f"if {condition}: time.sleep(60)\n"
        f"subprocess.run([{REAL!r}, *sys.argv[1:]], input=dot.encode(), check=True)\n"
    )
    path.chmod(0o755)


def text_of(svg: str | bytes) -> str:
    return " ".join(
        element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")
    )


def test_each_suffix_gives_its_format(tmp_path: Path) -> None:
    assert render(model(), tmp_path / "a.svg").read_bytes().startswith(b"<svg")
    assert render(model(), str(tmp_path / "a.PNG")).read_bytes().startswith(b"\x89PNG")
    assert render(model(), tmp_path / "a.dot").read_text().startswith("digraph")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.PNG", "a.dot", "a.svg"]


def test_pdf_comes_from_a_system_dot(tmp_path: Path, scripts: Path) -> None:
    (scripts / "dot").write_text(f"#!{PYTHON} -S\nprint('%PDF')\n")
    (scripts / "dot").chmod(0o755)
    assert render(model(), tmp_path / "a.pdf").read_bytes() == b"%PDF\n"


@pytest.mark.parametrize("name", ["a.gif", "a", "a.svg.gz"])
def test_another_suffix_is_an_error_that_names_them(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.svg, \.html, \.pdf, \.png, \.dot, "):
        render(model(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "folder.svg").mkdir()
    for path in (tmp_path / "missing" / "a.svg", tmp_path / "folder.svg"):
        with pytest.raises(OSError, match=path.parent.name):
            render(model(), path)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


@pytest.mark.usefixtures("scripts")
def test_the_old_file_stays_when_drawing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text("old")
    with pytest.raises(NoEngineError):
        render(model(), path)
    assert path.read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.svg", "bin"]


def test_a_file_is_replaced_and_not_written_over(tmp_path: Path) -> None:
    path, old = tmp_path / "a.dot", tmp_path / "old"
    path.write_text("old")
    old.hardlink_to(path)
    assert render(model(), path).read_text() != "old"
    assert old.read_text() == "old"


def test_a_new_file_has_the_usual_rights_and_a_link_stays_a_link(tmp_path: Path) -> None:
    usual = tmp_path / "usual"
    usual.write_text("")
    link = tmp_path / "link.dot"
    link.symlink_to(tmp_path / "target.dot")
    assert render(model(), link) == link
    assert link.is_symlink()
    target = tmp_path / "target.dot"
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_an_svg_has_role_title_description_names_and_tooltips() -> None:
    root = ElementTree.fromstring(picture(model(), "svg"))
    assert root.get("role") == "img"
    assert [child.tag for child in root][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert "box = cost" in (root.findtext(f"{SVG}desc") or "")
    assert {"z", "x", "loss", "net.layer1"} <= {e.text for e in root.iter(f"{SVG}text")}
    tooltips = [title.text or "" for title in root.iter(f"{SVG}title")]
    first = Path(__file__).read_text().splitlines()[0]
    assert any(
        tip.startswith("z\n") and tip.endswith(f"test_render.py:1 in model\n{first}")
        for tip in tooltips
    )
    assert any(tip.startswith("z → x\nalignment (0)") for tip in tooltips)


def test_an_svg_keeps_its_presentation_attributes_and_has_a_night_side() -> None:
    svg = picture(model(), "svg").decode()
    assert 'fill="#e6f4ee"' in svg
    assert "@media (prefers-color-scheme: dark)" in svg
    (identity,) = re.findall(r'<g id="(\w+)" class="graph', svg)
    style = svg.split("<style>")[1].split("</style>")[0]
    rules = [line for line in style.splitlines() if line.endswith("}") and line != "}"]
    assert rules
    assert all(rule.startswith(f"#{identity} ") for rule in rules)


def test_two_pictures_on_a_page_have_no_id_in_common() -> None:
    ids = [
        {element.get("id") for element in ElementTree.fromstring(picture(graph, "svg")).iter()}
        - {None}
        for graph in (model("z"), model("w"))
    ]
    assert min(map(len, ids)) >= 8
    assert not ids[0] & ids[1]


def test_the_same_graph_gives_the_same_bytes() -> None:
    assert picture(model(), "svg") == picture(model(), "svg")


def test_a_model_in_another_folder_has_the_same_picture() -> None:
    def placed(folder: str) -> bytes:
        where = replace(HERE, filename=f"{folder}/model.py")
        vertices = tuple(replace(vertex, location=where) for vertex in model().vertices)
        return picture(replace(model(), vertices=vertices), "svg")

    assert placed("/home/here") == placed("/srv/there")


def test_an_empty_graph_is_a_picture_too() -> None:
    assert "no sites" in text_of(picture(Graph(), "svg"))


def test_a_layout_that_hangs_gives_the_folded_picture_with_a_note(
    tmp_path: Path, scripts: Path
) -> None:
    slow(scripts, "'Repeats are folded' not in dot")
    shown = text_of(render(chain(3), tmp_path / "a.svg", limit=2.0).read_bytes())
    assert "t = 0..2 z[t]" in shown
    assert "3 nodes and 3 arrows, took longer than 2 s" in shown


def test_a_graph_without_repeats_is_laid_out_roughly(scripts: Path) -> None:
    slow(scripts, "'Laid out roughly' not in dot")
    assert "3 nodes and 2 arrows" in text_of(picture(model(), "svg", limit=2.0))


def test_a_real_graph_that_is_dense_is_drawn_in_time() -> None:
    shown = text_of(picture(chain(80), "svg", limit=5.0))
    assert "t = 0..79 z[t]" in shown
    shown = text_of(picture(chain(80), "svg", limit=10.0, is_folded=False))
    assert "3081 arrows are left out that others imply" in shown
    assert "z_79" in shown


def test_a_folded_picture_can_be_asked_for(tmp_path: Path) -> None:
    shown = text_of(render(chain(3), tmp_path / "a.svg", is_folded=True).read_bytes())
    assert "t = 0..2 z[t]" in shown
    assert "took longer" not in shown
    assert "z[t]" in render(chain(3), tmp_path / "a.dot", is_folded=True).read_text()
    assert "<b>z_2</b>" in render(chain(3), tmp_path / "b.dot").read_text()
    assert "<b>z_3</b>" not in render(chain(4), tmp_path / "c.dot").read_text()
    assert "<b>z_3</b>" in render(chain(4), tmp_path / "d.dot", is_folded=False).read_text()


def test_when_the_folded_picture_hangs_too_the_old_file_stays(
    tmp_path: Path, scripts: Path
) -> None:
    (scripts / "graphviz-pure").write_text(f"#!{PYTHON} -S\nimport time\ntime.sleep(60)\n")
    (scripts / "graphviz-pure").chmod(0o755)
    path = tmp_path / "a.svg"
    path.write_text("old")
    with pytest.raises(LayoutTimeoutError, match="limit="):
        render(chain(4), path, limit=0.3)
    assert path.read_text() == "old"
    assert mimebundle(chain(4), limit=0.3) == {"text/plain": str(chain(4))}


def test_a_notebook_gets_the_picture_and_the_text() -> None:
    bundle = mimebundle(model())
    assert set(bundle) == {"image/svg+xml", "text/plain"}
    assert "loss" in text_of(bundle["image/svg+xml"])
    assert bundle["text/plain"] == str(model())


@pytest.mark.usefixtures("scripts")
def test_a_notebook_without_an_engine_gets_the_text() -> None:
    assert mimebundle(model()) == {"text/plain": str(model())}


def test_a_notebook_with_a_broken_engine_gets_the_text(scripts: Path) -> None:
    (scripts / "dot").write_text(f"#!{PYTHON} -S\nraise SystemExit('<svg')\n")
    (scripts / "dot").chmod(0o755)
    assert mimebundle(model()) == {"text/plain": str(model())}


def test_a_graph_draws_itself_by_what_is_installed(tmp_path: Path) -> None:
    install(render, to_html, mimebundle)
    path = model().render(tmp_path / "a.svg", limit=10.0)
    assert path.read_text() == model()._repr_mimebundle_()["image/svg+xml"]
