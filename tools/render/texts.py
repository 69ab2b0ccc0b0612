"""Texts: a graph for other programs, as DOT, Mermaid, GraphML or JSON.

Mermaid is drawn by GitHub and many editors; networkx, Gephi and yEd read GraphML.

>>> print(mermaid(Graph()))
flowchart TD
<BLANKLINE>
>>> json_of(Graph())
'{"vertices": [], "edges": [], "plates": []}'
"""

import html
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict

import networkx as nx

from ancestral.provenance.algebra.alignment import shown
from ancestral.tools.render.clusters import Inside, boxes, nested
from ancestral.tools.render.dot import dot, frame_name, is_dashed
from ancestral.tools.render.facts import title_facts, visible
from ancestral.tools.render.fold_loops import Sketch
from ancestral.tools.render.looks import LOOKS
from ancestral.tools.render.simplify import sketched
from ancestral.trace.graph.graph import Graph

_SHAPES = {
    "score": ("([", "])"),
    "pathwise": ("{{", "}}"),
    "observed": ("([", "])"),
    "deterministic": (">", "]"),
    "cost": ("[", "]"),
    "noise": ("{", "}"),
    "param": ("[", "]"),
}


def mermaid(graph: Graph, is_folded: bool | None = None) -> str:
    """Return a graph as a flowchart of Mermaid, with its modules and plates as subgraphs."""
    sketch, _ = sketched(graph, is_folded)
    kinds = dict.fromkeys(group.members[0].kind for group in sketch.groups)
    lines = [
        "flowchart TD",
        *_subgraphs(sketch, nested(boxes(sketch, graph.plates).paths), "  "),
        *(
            f"  n{a.parent} {'-.->' if is_dashed(sketch, a) else '-->'}"
            f"{f'|{a.label}|' if a.label else ''} n{a.child}"
            for a in sketch.arrows
        ),
        *(
            f"  classDef {kind} fill:{LOOKS[kind].fill},stroke:{LOOKS[kind].line},color:#1f2328"
            for kind in kinds
        ),
    ]
    return "\n".join(lines) + "\n"


def _subgraphs(sketch: Sketch, inside: Inside, indent: str) -> Iterator[str]:
    for place in inside.places:
        group = sketch.groups[place]
        kind = group.members[0].kind
        opening, closing = _SHAPES[kind]
        label = "<br/>".join(map(_quoted, (visible(group.title), *title_facts(group))))
        yield f'{indent}n{place}{opening}"{label}"{closing}:::{kind}'
    for frame in inside.frames:
        yield f'{indent}subgraph {frame.name} ["{_quoted(frame_name(frame))}"]'
        yield from _subgraphs(sketch, frame.inside, f"{indent}  ")
        yield f"{indent}end"


def _quoted(text: str) -> str:
    """Return a text that Mermaid takes for no markup: it reads #names; in place of &names;."""
    return html.escape(text).replace("&", "#").replace("`", "#96;")


def graphml(graph: Graph, is_folded: bool | None = None) -> str:
    """Return a graph as GraphML; the steps of loops are never folded."""
    found = nx.DiGraph()
    plates: dict[str, list[str]] = {vertex.name: [] for vertex in graph.vertices}
    for plate in graph.plates:
        for site in plate.sites:
            plates[site].append(plate.name)
    for vertex in graph.vertices:
        found.add_node(
            visible(vertex.name),
            kind=vertex.kind,
            distribution=visible(vertex.distribution) if vertex.distribution else "",
            shape=json.dumps(list(vertex.shape)),
            plates=visible(", ".join(plates[vertex.name])) if plates[vertex.name] else "",
            source=f"{vertex.location.filename}:{vertex.location.line}",
            module=vertex.module_path,
        )
    for edge in graph.edges:
        ends = visible(edge.parent), visible(edge.child)
        known = found.get_edge_data(*ends, {"alignment": ""})["alignment"]
        alignment = shown(edge.alignment, ", ")
        found.add_edge(*ends, alignment=f"{known}; {alignment}" if known else alignment)
    return "\n".join(nx.generate_graphml(found)) + "\n"


def json_of(graph: Graph, is_folded: bool | None = None) -> str:
    """Return a graph as JSON: vertices, edges and plates; no step is folded."""
    return json.dumps(
        {
            "vertices": [asdict(vertex) for vertex in graph.vertices],
            "edges": [
                {
                    "parent": edge.parent,
                    "child": edge.child,
                    "alignment": shown(edge.alignment, ", "),
                }
                for edge in graph.edges
            ],
            "plates": [asdict(plate) for plate in graph.plates],
        }
    )


TEXTS: Mapping[str, Callable[[Graph, bool | None], str]] = {
    "dot": lambda graph, is_folded: dot(graph, is_folded=is_folded),
    "mmd": mermaid,
    "graphml": graphml,
    "json": json_of,
}
