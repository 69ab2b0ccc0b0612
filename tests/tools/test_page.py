"""Page: a graph explored in a real browser, by mouse, by touch and by the keyboard alone."""

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributions import Bernoulli, Normal

import ancestral as an
from ancestral.provenance.algebra.alignment import Alignment
from ancestral.tools.render.engines import LayoutTimeoutError, lay_out
from ancestral.tools.render.render import to_html
from ancestral.trace.context.place import Location
from ancestral.trace.graph.graph import Edge, Graph, Vertex

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no browser: install Debian's chromium, or Chrome"
)
HERE = Location(__file__, 1, "model")
Open = Callable[..., Any]

# The ends of each stub, from the corner of the folded frame, and the size of the frame.
STUBS = """() => {
  const b = document.querySelector(".folded :is(polygon, path)").getBBox();
  const place = (x, y) => [x.baseVal.value - b.x, y.baseVal.value - b.y, b.width, b.height];
  return [...document.querySelectorAll(".stub line")].map(
    e => [place(e.x1, e.y1), place(e.x2, e.y2)]);
}"""
# Each text that is seen outside the picture, its colour, and what is behind it.
TEXTS = """() => {
  const says = e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim());
  const paint = e => getComputedStyle(e).backgroundColor;
  const behind = e => paint(e) === "rgba(0, 0, 0, 0)" ? behind(e.parentElement) : paint(e);
  return [...document.querySelectorAll("aside *, header *")]
    .filter(e => e.checkVisibility() && says(e))
    .map(e => [e.textContent, getComputedStyle(e).color, behind(e)]);
}"""
# The fill of a node, and the colours of its texts.
FILLS = """e => [getComputedStyle(e.querySelector("a > :is(ellipse, polygon, path)")).fill,
  ...[...e.querySelectorAll("text")].map(t => getComputedStyle(t).fill)]"""
GROUND = "e => getComputedStyle(e).backgroundColor"
# Milliseconds from frame to frame while the wheel zooms.
ZOOMS = """async () => {
  const stage = document.querySelector(".views"), start = performance.now();
  for (let i = 0; i < 20; i++) {
    const at = {deltaY: 20, clientX: 300, clientY: 300, cancelable: true};
    stage.dispatchEvent(new WheelEvent("wheel", at));
    await new Promise(requestAnimationFrame);
  }
  return (performance.now() - start) / 20;
}"""


def net() -> Graph:
    """Return h1 -> h2, and two costs, in a plate of 6, and h2 with one of them in a plate of 3."""

    def model() -> Any:
        h1 = Bernoulli(logits=torch.zeros(6, 4, requires_grad=True)).sample()
        h2 = Bernoulli(logits=h1 @ torch.ones(4, 3)).sample()
        an.cost("low", (h1.sum(1, keepdim=True) - h2) ** 2)
        an.cost("high", h2.sum(1) ** 2)

    return an.graph(model)


def loop() -> Graph:
    def model() -> Any:
        z, cost = torch.zeros(3), torch.zeros(3)
        for _ in range(12):
            z = Normal(z, 1.0).rsample()
            cost = cost + z**2
        return cost.sum()

    return an.graph(model)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Open]:
    """Open a graph's page offline; any error of the page, and any request, fails the test."""
    wrong: list[str] = []
    contexts = []

    def opening(graph: Graph, width: int = 1400, **kwargs: Any) -> Any:
        path = tmp_path / "graph.html"
        path.write_text(to_html(graph) if isinstance(graph, Graph) else graph)
        size = {"width": width, "height": 800}
        context = chromium.new_context(viewport=size, offline=True, **kwargs)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda m: wrong.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("request", lambda r: None if r.url.startswith("file:") else wrong.append(r.url))
        page.goto(path.as_uri())
        return page

    yield opening
    for context in contexts:
        context.close()
    assert not wrong


def names(page: Any, kind: str) -> set[str]:
    """Return the names of the nodes that have a class."""
    found = page.locator(f".views > div:not([hidden]) .node.{kind}").all()
    return {node.get_attribute("aria-label").split(",")[0] for node in found}


def node(page: Any, name: str) -> Any:
    return page.locator(f'.views > div:not([hidden]) .node[aria-label^="{name},"]')


def test_a_click_lights_what_lies_up_and_downstream_as_the_graph_says(opened: Open) -> None:
    graph = net()
    page = opened(graph)
    for vertex in graph.vertices:
        node(page, vertex.name).click()
        assert names(page, "chosen") == {vertex.name}
        assert names(page, "up") == graph.ancestors(vertex.name)
        assert names(page, "down") == graph.descendants(vertex.name)
        assert page.locator("#about h2").first.inner_text() == vertex.name
    assert "test_page.py" in page.locator("#about").inner_text()
    page.keyboard.press("Escape")
    page.locator(".views").click(position={"x": 3, "y": 3})
    assert names(page, "chosen") == set()


def test_random_graphs_light_what_networkx_finds(opened: Open) -> None:
    chance = random.Random(0)
    names_ = [f"v{i}x" for i in range(14)]
    graph = Graph(
        tuple(
            Vertex(n, "score", "Normal", (), Location("m.py", i, "f")) for i, n in enumerate(names_)
        ),
        tuple(
            Edge(a, b, Alignment(()))
            for i, b in enumerate(names_)
            for a in names_[:i]
            if chance.random() < 0.3
        ),
    )
    page = opened(graph)
    for name in names_:
        node(page, name).focus()
        page.keyboard.press("Enter")
        assert names(page, "up") == graph.ancestors(name)
        assert names(page, "down") == graph.descendants(name)


def test_the_keyboard_follows_the_arrows_and_is_told(opened: Open) -> None:
    page = opened(net())
    stops = page.locator('.node[tabindex="0"]')
    assert stops.count() == 1  # one stop of the Tab key
    stops.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    assert names(page, "chosen") <= {"h2", "low"}
    assert "upstream" in page.locator("#said").inner_text()
    assert page.locator('.node[aria-pressed="true"]').count() == 1
    page.keyboard.press("ArrowUp")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("h1,")
    page.keyboard.press("Escape")
    assert names(page, "chosen") == set()


def test_a_search_finds_names_distributions_and_lines(opened: Open) -> None:
    page = opened(net())
    for text, found in (("LOW", 1), ("bernoulli", 2), ("h2 = ", 1), ("nothing", 0)):
        page.fill("#search", text)
        assert page.locator("#found").inner_text() == f"{found} found"
    page.fill("#search", "high")
    page.press("#search", "Enter")
    assert names(page, "chosen") == {"high"}
    page.fill("#search", "")
    assert page.locator("#found").inner_text() == ""


def test_a_frame_folds_to_one_box_with_arrows_to_its_border(opened: Open) -> None:
    page = opened(net())
    button = page.locator("#frames button").last
    members = page.locator(".node:visible").count()
    assert button.get_attribute("aria-expanded") == "true"
    button.click()
    assert button.get_attribute("aria-expanded") == "false"
    hidden = page.locator(".node[hidden]").count()
    assert 0 < hidden < members
    assert page.locator(".summary").text_content() == f"{hidden} nodes"
    assert page.locator(".stub").count() > 0
    stubs = page.evaluate(STUBS)
    for ends in stubs:
        assert any(
            min(abs(x), abs(x - width), abs(y), abs(y - height)) < 0.1
            for x, y, width, height in ends
        )
    node(page, "h1").click()  # what is hidden is downstream all the same
    assert names(page, "down") == {"h2", "low", "high"}
    assert page.locator(".stub.down").count() > 0
    page.fill("#search", "h2")
    page.press("#search", "Enter")  # opens what hides it
    assert page.locator(".node[hidden]").count() == 0
    assert page.locator(".stub").count() == 0


def test_every_step_of_a_loop_is_shown_when_asked(opened: Open) -> None:
    graph = loop()
    page = opened(graph)
    shown = page.locator(".node:visible")
    folded = shown.count()
    assert folded < len(graph.vertices)
    page.locator("#steps").click()
    assert shown.count() == len(graph.vertices)
    node(page, "z_11").focus()
    page.keyboard.press("Enter")
    assert names(page, "up") == graph.ancestors("z_11")
    page.locator("#steps").click()
    assert shown.count() == folded


def test_wheel_buttons_and_drags_move_the_picture(opened: Open) -> None:
    page = opened(net())

    def place() -> Any:
        return node(page, "h1").bounding_box()

    first = place()
    page.mouse.move(first["x"], first["y"])
    page.mouse.wheel(0, -300)
    closer = place()
    assert closer["width"] > 1.3 * first["width"]
    assert abs(closer["x"] - first["x"]) < 3  # it stays below the pointer
    page.locator("#fit").click()
    page.mouse.move(20, 700)
    page.mouse.down()
    page.mouse.move(120, 650, steps=5)
    page.mouse.up()
    assert place()["x"] == pytest.approx(first["x"] + 100, abs=2)
    assert place()["y"] == pytest.approx(first["y"] - 50, abs=2)
    page.locator("#closer").click()
    page.locator("#farther").click()
    page.keyboard.press("Escape")


def test_day_and_night_by_the_system_and_by_choice(opened: Open) -> None:
    page = opened(net(), color_scheme="dark")
    paper = page.locator(".graph > polygon").first

    def fill() -> Any:
        return paper.evaluate("e => getComputedStyle(e).fill")

    assert fill() == "rgb(27, 28, 31)"
    page.locator("#theme").click()
    assert fill() == "rgb(255, 255, 255)"
    page.locator("#theme").click()
    assert fill() == "rgb(27, 28, 31)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_a_contrast_of_four_and_a_half(opened: Open, scheme: str) -> None:
    page = opened(net(), color_scheme=scheme)
    node(page, "h2").click()
    found = page.evaluate(TEXTS)
    assert len(found) > 10
    for text, color, ground in found:
        assert _contrast(color, ground) >= 4.5, text


def _contrast(one: str, other: str) -> float:
    a, b = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (a + 0.05) / (b + 0.05)


def _channels(color: str) -> list[float]:
    """Return red, green and blue in 0 to 255, as browsers write colours and mixtures of them."""
    scale = 255 if color.startswith("color(") else 1
    return [scale * float(c) for c in re.findall(r"[\d.]+", color)[:3]]


def _luminance(color: str) -> float:
    channels = [c / 255 for c in _channels(color)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_on_a_telephone_nothing_runs_off_the_side(opened: Open) -> None:
    page = opened(net(), width=380, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    room, frame = (page.locator(each).first.bounding_box() for each in (".views", ".cluster"))
    assert frame["y"] + frame["height"] <= room["y"] + room["height"]
    box = node(page, "h1").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert names(page, "chosen") == {"h1"}


def test_without_scripts_the_picture_is_there(opened: Open) -> None:
    page = opened(loop(), java_script_enabled=False)
    assert page.locator("svg").first.is_visible()
    assert page.locator("svg").count() == 2  # one of them is hidden
    assert not page.locator("svg").last.is_visible()
    assert not page.locator("button").first.is_visible()
    assert not page.locator("#search").is_visible()


def large(count: int) -> Graph:
    chance = random.Random(0)
    ids = [f"v{chr(97 + i % 26)}{i}x" for i in range(count)]
    return Graph(
        tuple(
            Vertex(n, "score", "Normal", (), Location("m.py", i, "f")) for i, n in enumerate(ids)
        ),
        tuple(
            Edge(ids[chance.randrange(max(0, i - 30), i)], ids[i], Alignment(()))
            for i in range(1, count)
        ),
    )


def test_a_thousand_nodes_open_within_a_second_and_move(opened: Open) -> None:
    """In seconds of the page's own thread, which other work on the machine does not add to."""
    page = opened(large(1000))
    browser = page.context.new_cdp_session(page)
    browser.send("Performance.enable", {"timeDomain": "threadTicks"})

    def taken(act: Callable[[], Any]) -> float:
        def busy() -> float:
            found = browser.send("Performance.getMetrics")["metrics"]
            return float(next(each["value"] for each in found if each["name"] == "TaskDuration"))

        before = busy()
        act()
        page.evaluate("() => new Promise(requestAnimationFrame)")
        return busy() - before

    assert page.locator(".node").count() == 1000
    seconds = {
        "open": taken(page.reload),
        "zoom": taken(lambda: page.evaluate(ZOOMS)) / 20,
        "choose": taken(lambda: page.locator(".node").first.press("Enter")),
        "find": taken(lambda: page.fill("#search", "va")),
    }
    print(*(f"{name} {1e3 * each:.0f} ms" for name, each in seconds.items()), sep=", ")
    assert seconds.pop("open") < 1
    assert max(seconds.values()) < 0.2
    first = page.locator(".node").first.bounding_box()
    assert first["height"] > 15  # opens on the first nodes, where they can be read


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_shares_are_colours_with_a_legend_and_numbers(opened: Open, scheme: str) -> None:
    graph = net().colored({"h1": 0.24, "h2": 0.76})
    page = opened(graph, color_scheme=scheme)
    legend = page.locator("#shares")
    assert legend.locator("li").all_inner_texts() == ["h2\n76%", "h1\n24%"]
    swatches = legend.locator(".swatch").all()
    for name, swatch in zip(("h2", "h1"), swatches, strict=True):
        (fill, *texts), mark = node(page, name).evaluate(FILLS), swatch.evaluate(GROUND)
        near = zip(_channels(fill), _channels(mark), strict=True)
        assert max(abs(a - b) for a, b in near) <= 12  # the nearest of ten steps
        assert all(_contrast(text, fill) >= 4.5 for text in texts)
    for text, color, ground in page.evaluate(TEXTS):
        assert _contrast(color, ground) >= 4.5, text
    ends = legend.locator(".scale").evaluate("e => getComputedStyle(e).backgroundImage")
    for end in re.findall(r"rgb\([^)]*\)", ends):
        assert (
            _contrast(legend.locator(".scale").evaluate("e => getComputedStyle(e).color"), end)
            >= 4.5
        )
    assert "76% of the variance" in node(page, "h2").get_attribute("aria-label")
    legend.locator("button").first.click()
    assert names(page, "chosen") == {"h2"}
    assert opened(net()).locator("#shares").inner_text() == ""


def test_what_is_too_large_to_lay_out_shows_its_first_nodes_and_says_so(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(dot: str, form: str, limit: float) -> bytes:
        if "n300 " in dot:
            raise LayoutTimeoutError
        return lay_out(dot, form, limit)

    monkeypatch.setattr("ancestral.tools.render.render.lay_out", slow)
    page = opened(large(400))
    assert page.locator(".node").count() == 200
    for place in ("aside", "svg"):
        said = page.locator(place).text_content()
        assert "The first 200 nodes: the whole picture," in said
        assert "400 nodes and 399 arrows, took longer than 20 s." in said


def test_names_of_any_text_are_shown_as_they_are(opened: Open) -> None:
    name = '</script><b onclick="x()">&amp;'
    graph = Graph((Vertex(name, "score", "Normal", (), HERE), Vertex("b", "cost", "", (), HERE)))
    page = opened(graph)
    page.locator(".node").first.click()
    assert page.locator("#about h2").first.inner_text() == name
    assert page.locator("b").count() == 0


def test_an_empty_graph_is_a_page_too(opened: Open) -> None:
    page = opened(Graph())
    assert "0 sites" in page.title()


def test_steps_that_take_too_long_to_lay_out_are_left_out_aloud(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(dot: str, form: str, limit: float) -> bytes:
        if "n11 " in dot:
            raise LayoutTimeoutError
        return lay_out(dot, form, limit)

    graph = loop()
    monkeypatch.setattr("ancestral.tools.render.render.lay_out", slow)
    page = opened(graph)
    assert page.locator("#steps").count() == 0
    assert "took longer than 20 s" in page.locator("aside").inner_text()


def test_the_data_of_a_page_is_that_of_the_graph() -> None:
    graph = net()
    found = re.search(r'id="data">(.*?)</script>', to_html(graph))
    assert found is not None
    (view,) = json.loads(found[1])["views"]
    assert [each["name"] for each in view["nodes"]] == [v.name for v in graph.vertices]
    numbers = {v.name: i for i, v in enumerate(graph.vertices)}
    expected = {(numbers[e.parent], numbers[e.child]) for e in graph.edges}
    assert {tuple(each) for each in view["arrows"]} == expected


def test_a_page_is_valid_html() -> None:
    html5lib = pytest.importorskip("html5lib", reason="the checker is not installed")
    parser = html5lib.HTMLParser()
    parser.parse(to_html(loop().colored({"z": 1.0})))
    assert parser.errors == []
