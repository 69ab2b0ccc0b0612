"""Shares: the colours of a graph by how much of the gradient's variance each site has."""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.tools.render.dot import PLAIN, dot, prefix
from ancestral.tools.render.looks import STEPS, shade, step_of
from ancestral.tools.render.render import picture
from ancestral.trace.context.place import Location
from ancestral.trace.graph.graph import Graph, Vertex


def vertex(name: str, line: int = 1, kind: str = "score") -> Vertex:
    return Vertex(name, kind, "Bernoulli", (4,), Location("model.py", line, "f"))


def graph_of(*vertices: Vertex) -> Graph:
    return Graph(vertices)


def shares_in(graph: Graph) -> dict[str, float | None]:
    return {v.name: v.share for v in graph.vertices}


def fills(graph: Graph) -> dict[str, str]:
    nodes = [line for line in dot(graph).splitlines() if "fillcolor=" in line]
    names = [re.findall("<b>(.*?)</b>", node)[0] for node in nodes]
    return dict(
        zip(names, [re.findall('fillcolor="(#\\w+)"', node)[0] for node in nodes], strict=True)
    )


def brightness(color: str) -> float:
    """Return the relative luminance of a colour, as WCAG 2 defines it."""
    parts = [part / 255 for part in bytes.fromhex(color[1:])]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_each_site_has_its_share_and_others_none() -> None:
    graph = graph_of(vertex("a"), vertex("b", 2), vertex("c", 3), vertex("x", 4, "observed"))
    found = graph.colored({"a": 0.7, "b": 0.3, "x": 0.0})
    assert shares_in(found) == {"a": 0.7, "b": 0.3, "c": None, "x": None}
    assert shares_in(graph)["a"] is None
    assert shares_in(found.colored({}))["a"] is None


def test_what_a_loop_has_together_is_divided_among_its_draws() -> None:
    loop = [vertex(name) for name in ("z", "z_1", "z_2", "z_3")]
    found = shares_in(graph_of(vertex("a", 2), *loop).colored({"a": 0.2, "z": 0.8}))
    assert found == pytest.approx({"a": 0.2, "z": 0.2, "z_1": 0.2, "z_2": 0.2, "z_3": 0.2})
    apart = shares_in(graph_of(*loop).colored({"z": 0.1, "z_1": 0.2, "z_2": 0.3, "z_3": 0.4}))
    assert apart == {"z": 0.1, "z_1": 0.2, "z_2": 0.3, "z_3": 0.4}
    counted = [vertex(f"h[{t}]") for t in range(5)]
    assert shares_in(graph_of(*counted).colored({"h": 1.0})) == {f"h[{t}]": 0.2 for t in range(5)}
    other = graph_of(vertex("z"), vertex("z_1", 2)).colored({"z": 1.0})
    assert shares_in(other) == {"z": 1.0, "z_1": None}  # of another line: no repeat of it


def test_more_of_the_variance_is_redder_and_the_number_stands_in_the_label() -> None:
    graph = graph_of(*(vertex(name, line) for line, name in enumerate("abcd")))
    found = graph.colored({"a": 0.71, "b": 0.25, "c": 0.04, "d": 0.001})
    shown = fills(found)
    order = [brightness(shown[name]) for name in "abcd"]
    assert order == sorted(order)
    text = dot(found)
    for words in ("71% of the variance", "25% of", "4% of", "under 1% of", "redder = more"):
        assert words in text
    assert "variance" not in dot(graph)
    assert fills(graph)["a"] == fills(graph)["d"]
    assert "over 99% of" in dot(graph.colored({"a": 0.998, "b": 0.002}))
    folded = graph_of(*(vertex(name) for name in ("z", "z_1", "z_2", "z_3"))).colored({"z": 1.0})
    assert "100% of the variance" in dot(folded)
    assert dot(folded, is_folded=False).count("25% of the variance") == 8  # in the tooltips too


def test_a_share_at_sites_that_are_not_there_is_said() -> None:
    graph = graph_of(vertex("a"))
    assert "40% of the variance lies at sites that are not here" in dot(graph.colored({"a": 0.6}))
    assert "not here" not in dot(graph.colored({"a": 1.0}))


def test_two_pictures_on_a_page_have_colours_of_their_own_by_day_and_by_night() -> None:
    graph = graph_of(vertex("a"), vertex("b", 2))
    one, other = graph.colored({"a": 0.9, "b": 0.1}), graph.colored({"a": 0.1, "b": 0.9})
    assert len({prefix(graph), prefix(one), prefix(other)}) == 3
    svg = picture(one, "svg").decode()
    classes = {e.get("class") for e in ElementTree.fromstring(svg).iter()}
    assert {"node score share9", "node score share1"} <= classes
    night = svg.partition("prefers-color-scheme: dark")[2]
    assert f".share9 a > :not(text, [fill=none]) {{ fill: {shade(9, is_night=True)} }}" in night
    assert night.index(".score a") < night.index(".share9 a")  # the last that fits counts
    assert ".share" not in picture(graph, "svg").decode()


@pytest.mark.parametrize(("is_night", "text"), [(False, PLAIN), (True, "#c4c9ce")])
def test_the_text_can_be_read_on_every_shade(is_night: bool, text: str) -> None:
    for step in range(STEPS + 1):
        low, high = sorted([brightness(shade(step, is_night=is_night)), brightness(text)])
        assert (high + 0.05) / (low + 0.05) >= 4.5
    assert step_of(-1e-12) == 0
    assert step_of(1 + 1e-12) == STEPS


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ([0.5], TypeError),
        (an.Monitor, TypeError),
        (0.5, TypeError),
        ("no_such_folder", ValueError),
        (Path(__file__), ValueError),  # no table
        ({"a": 1.5}, ValueError),
        ({"a": float("nan")}, ValueError),
        ({"a": "much"}, ValueError),
    ],
)
def test_what_is_no_share_is_refused(wrong: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="share"):
        graph_of(vertex("a")).colored(wrong)


def test_the_shares_of_a_monitor_colour_the_graph_of_its_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    logits = torch.zeros(2, requires_grad=True)
    monitor = an.Monitor(every=1)
    for _ in range(3):
        with an.record() as trace:
            a = Bernoulli(logits=logits[0].expand(16)).sample()
            b = Bernoulli(logits=logits[1] * a).sample()
            loss = (10 * (a - 0.3).pow(2) + (b - 0.4).pow(2)).sum()
        an.backward(loss, monitor=monitor)
    shares: Mapping[str, float] = monitor.shares()
    graph = trace.graph.colored(shares)
    assert trace.graph.colored(monitor) == graph
    assert trace.graph.to_html(shares=monitor) == graph.to_html()
    assert {v.name: v.share for v in graph.vertices if v.share is not None} == dict(shares)
    for suffix in ("svg", "html", "mmd"):
        text = graph.render(tmp_path / f"a.{suffix}").read_text()
        assert f"{shares['a']:.0%} of the variance" in text
    vertices = json.loads(graph.render(tmp_path / "a.json").read_text())["vertices"]
    assert vertices[0]["share"] == shares["a"]
    assert "of the variance" in graph._repr_mimebundle_()["image/svg+xml"]
