# graphviz annotates its methods only in part.
# pyright: reportUnknownMemberType=false
"""DOT: the text that layout engines read, with all that a picture shows.

Kinds differ by shape and by shade, so that a picture needs no colours; module paths are nested
boxes, plates boxes with their size in the lower corner; an arrow is dashed where no dimension of
the child indexes one of the parent's. Ids begin with a prefix made from the graph, so that pictures
on one page do not collide.

>>> from ancestral.trace.graph.graph import Graph
>>> dot(Graph()).startswith("digraph {")
True
"""

import hashlib
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath

import graphviz  # type: ignore[import-untyped]  # it has annotations, but no py.typed

from ancestral.provenance.algebra.alignment import Shape, keeps, shown
from ancestral.tools.render.clusters import Box, Boxes, Frame, Inside, boxes, nested
from ancestral.tools.render.facts import (
    elsewhere,
    facts_of,
    several,
    share_of,
    source_of,
    title_facts,
    visible,
    within,
)
from ancestral.tools.render.fold_loops import Arrow, Group, Repeat, Sketch, is_loop, repeat_of
from ancestral.tools.render.looks import LOOKS, shade, step_of
from ancestral.tools.render.simplify import sketched
from ancestral.trace.context.place import Location
from ancestral.trace.graph.find_plates import Extent
from ancestral.trace.graph.graph import Edge, Graph
from ancestral.trace.graph.loop_names import stem

FONT = "Helvetica"  # one name: engines warn about lists
QUIET = "#50545a"  # the colour of all but names
PLAIN = "#202326"  # the same where the fill is dark
_WIDEST = 28  # characters of a line that holds two facts
_LONGEST = 36  # characters of a name; the tooltip has them all
_DASHED = "dashed = no dimension aligned"
_FRAME = "frame with a number = plate"
_STEPS = "frame with t = steps of a loop"
_SHARES = "redder = more of the variance"
_PAGE = {"fontname": FONT, "bgcolor": "white", "nodesep": "0.35", "ranksep": "0.4", "pad": "0.25"}
_QUICK = {"nslimit": "2", "nslimit1": "2", "mclimit": "0.2"}  # fewer rounds of improvement
_NODE = {"fontname": FONT, "fontsize": "13", "style": "filled", "margin": "0.16,0.05"}
_EDGE = {
    "fontname": FONT,
    "fontsize": "10",
    "fontcolor": QUIET,
    "color": "#70757a",
    "arrowsize": "0.7",
}


def dot(graph: Graph, *, is_folded: bool | None = None, note: str = "") -> str:
    """Return the DOT text of a graph.

    Args:
        graph: What to draw.
        is_folded: Draw the repeats of a loop as one node, and lay out in less time. By default,
            those of a loop of four steps or more are.
        note: Lines to show below the picture.
    """
    sketch, implied = sketched(graph, is_folded)
    ids = prefix(graph)
    frames = boxes(sketch, graph.plates)
    plates, unseen = within(graph.plates), within(frames.undrawn)
    said = [f"{implied} arrows are left out that others imply"] if implied else []
    note = "\n".join(filter(None, [note, *said, elsewhere(graph)]))
    head = {"id": ids, "class": "ancestral", "label": _caption(sketch, frames, note), **_PAGE}
    if is_folded:
        head |= _QUICK
    text = graphviz.Digraph(graph_attr=head, node_attr=_NODE, edge_attr=_EDGE)
    repeats = Counter(repeat_of(vertex) for vertex in graph.vertices)
    loops = {repeat: f"loop{i}" for i, repeat in enumerate(repeats) if repeats[repeat] > 1}
    nodes = [
        _node(group, path, f"{ids}-n{place}", loops, plates, unseen)
        for place, (group, path) in enumerate(zip(sketch.groups, frames.paths, strict=True))
    ]
    _fill(text, nodes, nested(frames.paths), ids)
    for arrow in sketch.arrows:
        text.edge(f"n{arrow.parent}", f"n{arrow.child}", **_arrow(sketch, arrow, ids))
    return str(text.source)


def prefix(graph: Graph) -> str:
    """Return what all ids in the picture of a graph begin with: equal graphs, equal pictures.

    The folder that the model lies in is not shown, and makes no other picture.
    """
    vertices = tuple(replace(v, location=_beside(v.location)) for v in graph.vertices)
    shares = [v.share for v in vertices if v.share is not None]
    text = f"{replace(graph, vertices=vertices)!r}{shares or ''}"
    return "g" + hashlib.sha256(text.encode()).hexdigest()[:10]


def _beside(place: Location) -> Location:
    """Return a place without the folder of its file."""
    return replace(place, filename=PurePath(place.filename).name)


def legend(graph: Graph, *, is_folded: bool | None = None) -> tuple[str, ...]:
    """Say what the shapes and lines of a picture mean, those that occur in it."""
    sketch, _ = sketched(graph, is_folded)
    return _legend(sketch, boxes(sketch, graph.plates))


def _legend(sketch: Sketch, frames: Boxes) -> tuple[str, ...]:
    kinds = {group.members[0].kind for group in sketch.groups}
    words = [look.legend for kind, look in LOOKS.items() if kind in kinds]
    if any(is_dashed(sketch, arrow) for arrow in sketch.arrows):
        words.append(_DASHED)
    plates = [box.plate for path in frames.paths for box in path if box.plate is not None]
    if not all(map(is_loop, plates)):
        words.append(_FRAME)
    if any(map(is_loop, plates)):
        words.append(_STEPS)
    if any(share_of(group) is not None for group in sketch.groups):
        words.append(_SHARES)
    return tuple(words or ["no sites and no costs"])


def _markup(bold: str, *quiet: str, color: str = QUIET) -> str:
    lines = "".join(f"<br/>{_quiet(line, 10, color)}" for line in quiet)
    return f"<<b>{_escape(bold)}</b>{lines}>"


def _caption(sketch: Sketch, frames: Boxes, note: str) -> str:
    said = [f'<font point-size="11">{_escape(line)}</font>' for line in note.splitlines()]
    words = _legend(sketch, frames)
    rows = [",  ".join(words[start : start + 3]) for start in range(0, len(words), 3)]
    return f"<{'<br/>'.join([*said, *(_quiet(row, 9) for row in rows)])}>"


def _quiet(words: str, size: int, color: str = QUIET) -> str:
    return f'<font point-size="{size}" color="{color}">{_escape(words)}</font>'


def _tooltip(*lines: str) -> str:
    # Graphviz unescapes tooltips once more than labels.
    return "\\n".join(_escape(visible(line)).replace("\\", "\\\\") for line in lines if line)


def _escape(text: str) -> str:
    return html.escape(text).replace("\\", "\\\\")


def _fill(
    text: graphviz.Digraph, nodes: Sequence[dict[str, str]], inside: Inside, ids: str
) -> None:
    """Write the nodes of one box, and the boxes inside it."""
    for place in inside.places:
        text.node(f"n{place}", _attributes=nodes[place])
    for frame in inside.frames:
        plate = frame.path[frame.depth].plate
        attributes = {
            # Would be inherited from the graph, as the class, the tooltip and all looks would.
            "id": f"{ids}-{frame.name}",
            **(_module(frame.path, frame.depth) if plate is None else _frame(plate)),
        }
        cluster = graphviz.Digraph(name=f"cluster_{frame.name}", graph_attr=attributes)
        _fill(cluster, nodes, frame.inside, ids)
        text.subgraph(cluster)


def frame_name(frame: Frame) -> str:
    """Return what to call a frame in a list of them."""
    plate = frame.path[frame.depth].plate
    return visible(_dotted(frame.path)) if plate is None else visible(_extent(plate))


def _dotted(path: Sequence[Box]) -> str:
    return ".".join(box.name for box in path if box.plate is None)


def _module(path: Sequence[Box], depth: int) -> dict[str, str]:
    label = ".".join(box.name for box in path[depth:])
    return {
        "class": "module",
        "tooltip": _tooltip(_dotted(path)),
        "label": f"<{_quiet(visible(label), 11)}>",
        "labelloc": "t",
        "labeljust": "l",
        "style": "rounded",
        "color": "#bdc1c6",
        "margin": "10",
    }


def _frame(plate: Extent) -> dict[str, str]:
    """Return the looks of a plate: its name, if declared, and its size at the lower right.

    That of a loop says its steps.
    """
    name = f"{_short(visible(plate.name))}  " if plate.is_declared else ""
    label = plate.name if is_loop(plate) else name + _repetitions(plate)
    return {
        "class": "plate",
        "tooltip": _tooltip(_extent(plate), *(_place(site, dim) for site, dim in plate.dims[:20])),
        "label": f"<{_quiet(label, 11)}>",
        "labelloc": "b",
        "labeljust": "r",
        "style": "solid",
        "color": "#5f6368",
        "margin": "12",
    }


def _repetitions(plate: Extent) -> str:
    if any(dim is None for _, dim in plate.dims):
        return f"{plate.subsample_size} in turn"
    is_part = plate.subsample_size < plate.size
    return f"{plate.subsample_size} of {plate.size}" if is_part else str(plate.size)


def _extent(plate: Extent) -> str:
    if is_loop(plate):
        return f"{plate.size} steps of a loop, {plate.name}"
    how = "declared" if plate.is_declared else "found"
    return f"plate {plate.name}, {how}: {_repetitions(plate)}"


def _place(site: str, dim: int | None) -> str:
    return site if dim is None else f"{site}, dimension {dim}"


def _node(
    group: Group,
    path: tuple[Box, ...],
    identity: str,
    loops: Mapping[Repeat, str],
    plates: Mapping[str, Sequence[str]],
    unseen: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    first = group.members[0]
    look = LOOKS[first.kind]
    repeat = repeat_of(first)
    is_step = any(box.plate is not None and is_loop(box.plate) for box in path)
    title = visible(f"{stem(first.name)}[t]" if is_step else group.title)
    count, share = several(group), share_of(group)
    step = None if share is None else step_of(share)
    facts = title_facts(group)
    what = ", ".join(facts)
    lines = [what] if len(what) <= _WIDEST else facts
    return {
        "id": identity,
        "class": first.kind if step is None else f"{first.kind} share{step}",
        "label": _markup(
            _short(title),
            *lines,
            *unseen.get(first.name, ()),
            *([count] if count and not is_step else []),
            color=QUIET if step is None else PLAIN,
        ),
        "tooltip": _tooltip(visible(group.title), *facts_of(group, plates), *source_of(group)),
        "shape": look.shape,
        "peripheries": str(look.outlines),
        "fillcolor": look.fill if step is None else shade(step),
        "color": look.line,
        # The repeats of a loop stand in one line.
        **({"group": loops[repeat]} if repeat in loops else {}),
    }


def _short(name: str) -> str:
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"


def _arrow(sketch: Sketch, arrow: Arrow, ids: str) -> dict[str, str]:
    parent, child = sketch.groups[arrow.parent], sketch.groups[arrow.child]
    is_param = parent.members[0].kind == "param"
    kept = () if is_param else sorted({_alignment(edge) for edge in arrow.edges})
    return {
        "id": f"{ids}-n{arrow.parent}-n{arrow.child}",
        "class": "dependency",
        "tooltip": _tooltip(f"{parent.title} → {child.title}", *kept),
        **({"style": "dashed"} if is_dashed(sketch, arrow) else {}),
        **({"label": f" {arrow.label}"} if arrow.label else {}),
        # Arrows back to the top of the loop do not say what is above what.
        **({"constraint": "false"} if arrow.label and 0 not in (arrow.lags or ()) else {}),
    }


def is_dashed(sketch: Sketch, arrow: Arrow) -> bool:
    """Return whether no dimension of the child of an arrow indexes one of the parent's."""
    members = sketch.groups[arrow.parent].members
    shapes = {vertex.name: vertex.shape for vertex in members}
    return members[0].kind != "param" and all(_mixes(edge, shapes) for edge in arrow.edges)


def _alignment(edge: Edge) -> str:
    return f"alignment ({shown(edge.alignment, ', ')})"


def _mixes(edge: Edge, shapes: dict[str, Shape]) -> bool:
    """Whether a parent that has dimensions reaches the child through none of them."""
    return bool(shapes[edge.parent]) and not keeps(edge.alignment)
