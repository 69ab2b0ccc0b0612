"""Render: a graph as a picture, a page, or a text for other programs, and what a notebook shows.

A layout that takes too long is tried again with the repeats of loops folded, then with the first
nodes only, and the picture says so. A file is replaced only by a whole picture.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     render(Graph(), f"{folder}/nothing.dot").read_text()[:9]
'digraph {'
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ancestral.tools.render.dot import dot, legend, prefix
from ancestral.tools.render.engines import LIMIT, LayoutTimeoutError, lay_out
from ancestral.tools.render.fold_loops import folded
from ancestral.tools.render.looks import NIGHT, STEPS, shade
from ancestral.tools.render.page import page, view_of
from ancestral.tools.render.simplify import first_of, sketched, with_or_without
from ancestral.tools.render.texts import TEXTS
from ancestral.trace.graph.graph import Graph
from ancestral.trace.serialize.file import replacing

_FIRST = 200
"""The nodes that are drawn of a graph that takes too long."""
_SUFFIXES = (".svg", ".html", ".pdf", ".png", *(f".{form}" for form in TEXTS))


def render(
    graph: Graph,
    path: str | Path,
    *,
    limit: float = LIMIT,
    is_folded: bool | None = None,
    with_params: bool = False,
) -> Path:
    """Draw a graph into a file, by the suffix of `path`.

    A picture as SVG, PDF or PNG; a page to explore as HTML; or a text for other programs: DOT,
    Mermaid (.mmd), GraphML or JSON.

    Args:
        graph: What to draw.
        path: Where to write; what was there stays if anything fails.
        limit: Seconds that a layout may take; after them a coarser picture is tried for as long,
            and one of the first nodes after that.
        is_folded: Draw the repeats of a loop as one node to begin with, or none of them; by
            default, those of a loop of four steps or more are.
        with_params: Draw the parameters too.

    Raises:
        ValueError: if the suffix is none of these.
        OSError: if the path cannot be written.
        NoEngineError: if nothing installed draws the format.
        LayoutTimeoutError: if the first nodes take too long too.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"cannot draw {path.name!r}: its suffix must be one of {', '.join(_SUFFIXES)}"
        )
    with replacing(path) as file:
        drawn = with_or_without(graph, with_params)
        file.write(_written(drawn, suffix[1:], limit, is_folded))
    return path


def _written(graph: Graph, form: str, limit: float, is_folded: bool | None) -> bytes:
    if form in TEXTS:
        return TEXTS[form](graph, is_folded).encode()
    if form == "html":
        return _page(graph, limit, is_folded).encode()
    return picture(graph, form, limit, is_folded=is_folded)


def to_html(
    graph: Graph,
    *,
    limit: float = LIMIT,
    is_folded: bool | None = None,
    with_params: bool = False,
) -> str:
    """Return a page of a graph for a browser, which needs no network.

    It has two pictures where the repeats of loops are folded: the other shows every step.

    Raises:
        NoEngineError: if nothing installed draws SVG.
        LayoutTimeoutError: if the first nodes take too long too.
    """
    return _page(with_or_without(graph, with_params), limit, is_folded)


def _page(graph: Graph, limit: float, is_folded: bool | None) -> str:
    drawn = _laid_out(graph, "svg", limit, is_folded)
    ids = prefix(drawn.graph)
    svg = _for_page(drawn.data, drawn.graph, ids, drawn.is_folded)
    views, notes = [view_of(drawn.graph, svg, ids, drawn.is_folded)], [drawn.note]
    is_all = not drawn.note and is_folded is None
    if is_all and len(sketched(graph)[0].groups) < len(graph.vertices):
        try:
            every_step = lay_out(dot(graph, is_folded=False), "svg", limit)
        except LayoutTimeoutError:
            notes.append(_apology(graph, limit))
        else:
            every = f"{ids}e"
            text = every_step.decode().replace(ids, every).encode()
            views.append(view_of(graph, _for_page(text, graph, every, False), every, False))
    return page(_title(graph), views, [*filter(None, notes)])


def mimebundle(graph: Graph, *, limit: float = LIMIT) -> dict[str, str]:
    """Return what a notebook shows: the picture and the text, or the text where nothing draws."""
    bundle = {"text/plain": str(graph)}
    with suppress(Exception):  # a value that is shown must never raise, whatever engines do
        drawn = with_or_without(graph, with_params=False)
        bundle["image/svg+xml"] = picture(drawn, "svg", limit).decode()
    return bundle


def picture(
    graph: Graph, form: str, limit: float = LIMIT, *, is_folded: bool | None = None
) -> bytes:
    """Return the picture of a graph as "svg", "png" or "pdf"."""
    drawn = _laid_out(graph, form, limit, is_folded)
    if form != "svg":
        return drawn.data
    ids = prefix(drawn.graph)
    style = f"@media (prefers-color-scheme: dark) {{\n{_night(ids, drawn.graph)}\n}}"
    return _dressed(drawn.data, drawn.graph, ids, drawn.is_folded, style).encode()


@dataclass(frozen=True)
class _Drawn:
    """What was laid out: the bytes of the picture, of which graph, and what is to be said of it."""

    data: bytes
    graph: Graph
    is_folded: bool | None
    note: str


def _laid_out(graph: Graph, form: str, limit: float, is_folded: bool | None) -> _Drawn:
    """Return a picture, coarser where it takes too long.

    Raises:
        LayoutTimeoutError: if the coarsest takes too long too.
    """
    tries = [(graph, is_folded, "")]
    if not is_folded:
        tries.append((graph, True, _apology(graph, limit)))
    if len(graph.vertices) > _FIRST:
        tries.append((first_of(graph, _FIRST), True, _apology(graph, limit, is_first=True)))
    for drawn, coarse, note in tries:
        try:
            data = lay_out(dot(drawn, is_folded=coarse, note=note), form, limit)
        except LayoutTimeoutError as error:
            late = error
        else:
            return _Drawn(data, drawn, coarse, note)
    raise late


def _apology(graph: Graph, limit: float, *, is_first: bool = False) -> str:
    is_smaller = len(folded(graph).groups) < len(graph.vertices)
    what = "Repeats are folded" if is_smaller else "Laid out roughly"
    return (
        f"{f'The first {_FIRST} nodes' if is_first else what}: the whole picture,\n"
        f"{len(graph.vertices)} nodes and {len(graph.edges)} arrows, took longer than {limit:g} s."
        + ("\nAll are in .json, .graphml and .dot files." if is_first else "")
    )


def _title(graph: Graph) -> str:
    return f"Graph of {len(graph.vertices)} sites and costs"


def _for_page(svg: bytes, graph: Graph, ids: str, is_folded: bool | None) -> str:
    """Dress an SVG for a page whose reader may choose between day and night."""
    night = _night(ids, graph)
    by_system = f':root:not([data-theme="light"]) {{\n{night}\n}}'
    by_choice = f':root[data-theme="dark"] {{\n{night}\n}}'
    style = f"@media (prefers-color-scheme: dark) {{\n{by_system}\n}}\n{by_choice}"
    return _dressed(svg, graph, ids, is_folded, style)


def _dressed(drawn: bytes, graph: Graph, ids: str, is_folded: bool | None, style: str) -> str:
    """Give an SVG its title, description, tooltips that all viewers show, and its fonts."""
    svg = drawn.decode()
    shapes = ", ".join(legend(graph, is_folded=is_folded))
    about = f"Arrows go from each site to what depends on it directly. Shapes: {shapes}."
    head = (
        f"<title>{_title(graph)}</title>\n<desc>{about}</desc>\n<style>\n{_face(ids)}\n{style}\n"
        "</style>"
    )
    svg = re.sub(r"<title>[^<]*</title>\n", "", svg[svg.index("<svg") :])  # names like n0
    svg = re.sub(r'class="node.*?</a>', _centred, svg, flags=re.DOTALL)
    svg = re.sub(r'<a xlink:title="([^"]*)">', r"\g<0><title>\1</title>", svg)
    return re.sub(r"<svg([^>]*)>", lambda tag: f'<svg role="img"{tag[1]}>\n{head}', svg, count=1)


def _centred(node: re.Match[str]) -> str:
    """Centre the lines of a node: the viewer's face may be wider than the one laid out."""
    ellipse = re.search(r'<ellipse[^>]* cx="([^"]+)"', node[0])
    corners = re.search(r'<polygon[^>]* points="([^"]+)"', node[0])
    if ellipse is not None:
        middle = ellipse[1]
    elif corners is not None:
        xs = [float(corner.split(",")[0]) for corner in corners[1].split()]
        middle = f"{(min(xs) + max(xs)) / 2:.2f}"
    else:
        return node[0]
    return re.sub(r'text-anchor="start" x="[^"]+"', f'text-anchor="middle" x="{middle}"', node[0])


def _face(scope: str) -> str:
    """Return fonts as wide as the one that was laid out; the scope spares the rest of the page."""
    return f"#{scope} text {{ font-family: Helvetica, Arial, 'Liberation Sans', sans-serif }}"


def _night(scope: str, graph: Graph) -> str:
    """Return the colours for dark pages."""
    is_colored = any(vertex.share is not None for vertex in graph.vertices)
    dark = {step: shade(step, is_night=True) for step in (range(STEPS + 1) if is_colored else ())}
    shares = [
        f"#{scope} .share{step} a > :not(text, [fill=none]) {{ fill: {fill} }}"
        for step, fill in dark.items()
    ]
    kinds = [
        f"#{scope} .{kind} a > :not(text) {{ stroke: {line} }}\n"
        f"#{scope} .{kind} a > :not(text, [fill=none]) {{ fill: {fill} }}"
        for kind, (fill, line) in NIGHT.items()
    ]
    rules = [
        f"#{scope} > polygon {{ fill: #1b1c1f }}",
        f"#{scope} text {{ fill: #f1f3f4 }}",
        f"#{scope} text[fill] {{ fill: #c4c9ce }}",
        f"#{scope} .module path {{ fill: #1b1c1f; stroke: #5f6368 }}",
        f"#{scope} .plate polygon {{ fill: none; stroke: #9aa0a6 }}",
        f"#{scope} .edge :is(path, polygon) {{ stroke: #9aa0a6 }}",
        f"#{scope} .edge polygon {{ fill: #9aa0a6 }}",
    ]
    return "\n".join([*rules, *kinds, *shares])
