"""Page: a graph as one file that a browser explores, without a network.

It holds the pictures as SVG, what there is to say of each node as JSON, and a script that moves,
searches, folds frames and lights what lies up- and downstream. Without scripts the picture is shown
as it is.

>>> page("Nothing", []).startswith("<!DOCTYPE html>")
True
"""

import base64
import hashlib
import html
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ancestral.tools.render.clusters import Inside, boxes, nested
from ancestral.tools.render.dot import frame_name
from ancestral.tools.render.facts import facts_of, share_of, source_of, visible, within
from ancestral.tools.render.looks import STEPS, shade
from ancestral.tools.render.simplify import sketched
from ancestral.trace.graph.graph import Graph

_ASSETS = files("ancestral.tools.render") / "assets"
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; \
style-src 'unsafe-inline'; script-src '{digest}'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<label class="unseen" for="search">Find a node by its name, distribution or source line</label>
<input type="search" id="search" placeholder="Find a node" autocomplete="off">
<span id="found" class="quiet" aria-live="polite"></span>
{steps}<button type="button" id="closer" aria-label="Zoom in">+</button>
<button type="button" id="farther" aria-label="Zoom out">&minus;</button>
<button type="button" id="fit">Fit</button>
<button type="button" id="theme">Dark or light</button>
</header>
<main>
<div class="views">
{pictures}
</div>
<aside aria-label="About the nodes">
<div id="about"></div>
<div id="shares"></div>
<div id="frames"></div>
{notes}</aside>
</main>
<div id="said" class="unseen" role="status"></div>
<script type="application/json" id="data">{data}</script>
<script type="module">
{script}</script>
</body>
</html>
"""
_NIGHT = f"--least: {shade(0, is_night=True)}; --most: {shade(STEPS, is_night=True)}"
_SCALE = (
    f":root {{ --least: {shade(0)}; --most: {shade(STEPS)} }}\n"
    f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {_NIGHT} }} }}\n'
    f':root[data-theme="dark"] {{ {_NIGHT} }}'
)
"""The ends of the colours of shares, by day and by night."""
_STEPS = '<button type="button" id="steps" aria-pressed="false">Every step</button>\n'


@dataclass(frozen=True)
class View:
    """One picture of a graph: its SVG, and what the ids in it stand for."""

    svg: str
    data: Mapping[str, Any]


def view_of(graph: Graph, svg: str, ids: str, is_folded: bool | None) -> View:
    """Return a view of a graph, whose picture has ids that begin with `ids`."""
    sketch, _ = sketched(graph, is_folded)
    plates = within(graph.plates)
    nodes = [
        {
            "name": visible(group.title),
            "facts": facts_of(group, plates),
            "source": source_of(group),
            "share": share_of(group),
        }
        for group in sketch.groups
    ]
    frames = list(_frames(nested(boxes(sketch, graph.plates).paths), None, itertools.count()))
    arrows = [(arrow.parent, arrow.child) for arrow in sketch.arrows]
    return View(svg, {"id": ids, "nodes": nodes, "arrows": arrows, "frames": frames})


def _frames(inside: Inside, outer: int | None, numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
    """Yield the frames of a picture, each after the one around it, whose number it names."""
    for frame in inside.frames:
        number = next(numbers)
        members = frame.inside.everything
        yield {"id": frame.name, "name": frame_name(frame), "members": members, "outer": outer}
        yield from _frames(frame.inside, number, numbers)


def page(title: str, views: Sequence[View], notes: Sequence[str] = ()) -> str:
    """Return a page of one picture, or of two: with the steps of loops as one node, and with all.

    Args:
        title: what the page is called.
        views: the pictures; the first is shown.
        notes: what is to be said of them.
    """
    script, style = ((_ASSETS / name).read_text() for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(f"\n{script}".encode()).digest()).decode()
    data = json.dumps({"views": [view.data for view in views]}, separators=(",", ":"))
    hidden = ["", *[" hidden"] * len(views)]
    pictures = (
        f"<div{attribute}>\n{view.svg}\n</div>"
        for attribute, view in zip(hidden, views, strict=False)
    )
    return _PAGE.format(
        digest=f"sha256-{digest}",
        title=html.escape(title),
        style=f"{_SCALE}\n{style}",
        steps=_STEPS if len(views) > 1 else "",
        pictures="\n".join(pictures),
        notes="".join(f'<p class="quiet">{html.escape(note)}</p>\n' for note in notes),
        data=data.replace("<", "\\u003c"),
        script=script,
    )
