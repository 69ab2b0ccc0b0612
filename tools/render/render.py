"""Render: a graph as an SVG, PNG, PDF or DOT file, and as a picture in a notebook.

A layout that takes too long is tried again with the repeats of loops folded, and the picture says
so. A file is replaced only by a whole picture.

>>> from tempfile import TemporaryDirectory
>>> with TemporaryDirectory() as folder:
...     render(Graph(), f"{folder}/nothing.dot").read_text()[:9]
'digraph {'
"""

import re
from contextlib import suppress
from pathlib import Path

from ancestral.tools.render.dot import dot, legend, prefix
from ancestral.tools.render.engines import LIMIT, LayoutTimeoutError, lay_out
from ancestral.tools.render.fold_loops import folded
from ancestral.tools.render.simplify import with_or_without
from ancestral.trace.graph.graph import Graph
from ancestral.trace.serialize.file import replacing

_SUFFIXES = (".svg", ".pdf", ".png", ".dot")
_NIGHT = {
    "score": ("#1f334d", "#8ab4e8"),
    "pathwise": ("#1d3a30", "#7cc7aa"),
    "observed": ("#4c5056", "#d5d8dc"),
    "deterministic": ("#33363a", "#a9adb2"),
    "cost": ("#43341a", "#e3b15c"),
    "noise": ("#1b1c1f", "#8a8f94"),
    "param": ("#1b1c1f", "#1b1c1f"),
}


def render(
    graph: Graph,
    path: str | Path,
    *,
    limit: float = LIMIT,
    is_folded: bool | None = None,
    with_params: bool = False,
) -> Path:
    """Draw a graph into a file: SVG, PDF, PNG or DOT, by the suffix of `path`.

    Args:
        graph: What to draw.
        path: Where to write; what was there stays if anything fails.
        limit: Seconds that a layout may take; after them a coarser picture is tried for as long.
        is_folded: Draw the repeats of a loop as one node to begin with, or none of them; by
            default, those of a loop of four steps or more are.
        with_params: Draw the parameters too.

    Raises:
        ValueError: if the suffix is none of the four.
        OSError: if the path cannot be written.
        NoEngineError: if nothing installed draws the format.
        LayoutTimeoutError: if the coarser picture takes too long too.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"cannot draw {path.name!r}: its suffix must be one of {', '.join(_SUFFIXES)}"
        )
    with replacing(path) as file:
        drawn = with_or_without(graph, with_params)
        file.write(picture(drawn, suffix[1:], limit, is_folded=is_folded))
    return path


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
    """Return the picture of a graph as "svg", "png", "pdf" or "dot"."""
    if form == "dot":
        return dot(graph, is_folded=is_folded).encode()
    try:
        drawn = lay_out(dot(graph, is_folded=is_folded), form, limit)
    except LayoutTimeoutError:
        if is_folded:
            raise
        is_folded = True
        drawn = lay_out(dot(graph, is_folded=True, note=_apology(graph, limit)), form, limit)
    return _dressed(drawn.decode(), graph, is_folded).encode() if form == "svg" else drawn


def _apology(graph: Graph, limit: float) -> str:
    is_smaller = len(folded(graph).groups) < len(graph.vertices)
    return (
        f"{'Repeats are folded' if is_smaller else 'Laid out roughly'}: the whole picture,\n"
        f"{len(graph.vertices)} nodes and {len(graph.edges)} arrows, took longer than {limit:g} s."
    )


def _dressed(svg: str, graph: Graph, is_folded: bool | None) -> str:
    """Give an SVG its title, description, tooltips that all viewers show, and a night side."""
    title = f"Graph of {len(graph.vertices)} sites and costs"
    shapes = ", ".join(legend(graph, is_folded=is_folded))
    about = f"Arrows go from each site to what depends on it directly. Shapes: {shapes}."
    head = (
        f"<title>{title}</title>\n<desc>{about}</desc>\n<style>\n{_style(prefix(graph))}\n</style>"
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


def _style(scope: str) -> str:
    """Return the fonts, and the colours for dark pages; the scope spares the rest of the page."""
    kinds = [
        f"#{scope} .{kind} a > :not(text) {{ stroke: {line} }}\n"
        f"#{scope} .{kind} a > :not(text, [fill=none]) {{ fill: {fill} }}"
        for kind, (fill, line) in _NIGHT.items()
    ]
    rules = [
        f"#{scope} > polygon {{ fill: #1b1c1f }}",
        f"#{scope} text {{ fill: #f1f3f4 }}",
        f"#{scope} text[fill] {{ fill: #c4c9ce }}",
        f"#{scope} .module path {{ fill: #1b1c1f; stroke: #5f6368 }}",
        f"#{scope} .plate polygon {{ fill: none; stroke: #9aa0a6 }}",
        f"#{scope} .edge :is(path, polygon) {{ stroke: #9aa0a6 }}",
        f"#{scope} .edge polygon {{ fill: #9aa0a6 }}",
        *kinds,
    ]
    # Faces as wide as the one that was laid out.
    face = f"#{scope} text {{ font-family: Helvetica, Arial, 'Liberation Sans', sans-serif }}"
    return "\n".join([face, "@media (prefers-color-scheme: dark) {", *rules, "}"])
