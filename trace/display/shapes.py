"""Shapes of a trace as a table, for the terminal and for notebooks.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> from ancestral.trace.program.plate import plate
>>> with record() as trace:
...     z = sample("z", Normal(torch.zeros(3), 1.0))
...     with plate("data", 4, dim=-2):
...         x = sample("x", Normal(z, 1.0), obs=torch.zeros(4, 3))
>>> print(trace.format_shapes())
site  what      shape    plates
z     dist         3  |
      value        3  |
      log_prob     3  |
data  plate        4  |  dim -2
x     dist      4  3  |  data
      observed  4  3  |
      log_prob  4  3  |
"""

import html
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.display.text_table import aligned
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.node import ModifiedParameterError, Node, NoDensityError
from ancestral.trace.nodes.plate import Plate


class Row(NamedTuple):
    """One line of a table of shapes; the batch is all of it where nobody says otherwise."""

    site: str
    what: str
    batch: Shape
    event: Shape
    note: str = ""


HEADER = ("site", "what", "shape", "plates")


def rows_of(nodes: Iterable[Node]) -> Iterator[Row]:
    """Yield the shapes of each node: of its distribution, its value and its log-probability."""
    for node in nodes:
        if node.fn is None:
            what = node.type if node.type != "deterministic" else "value"
            shape, cut = tuple(node.value.shape), node.value.dim() - node.event_dims
            yield Row(node.name, what, shape[:cut], shape[cut:], _note(node))
            continue
        batch, event = tuple(node.fn.batch_shape), tuple(node.fn.event_shape)
        density = _density_shape(node)
        weight = Row("", "log_prob", density or (), (), "none" if density is None else "")
        if isinstance(node.fn, Factor):  # it has no value
            yield Row(node.name, "factor", batch, (), _note(node))
            yield weight
            continue
        yield Row(node.name, "dist", batch, event, _note(node))
        value = tuple(node.value.shape)
        cut = len(value) - len(event)
        yield Row("", "observed" if node.is_observed else "value", value[:cut], value[cut:])
        yield weight


def format_shapes(nodes: Mapping[str, Node]) -> str:
    """Return the shapes of all nodes as lines of aligned columns, the batch before the bar."""
    rows = list(rows_of(nodes.values()))
    shapes = _shapes(rows)
    cells = [(row.site, row.what, s, row.note) for row, s in zip(rows, shapes, strict=True)]
    return aligned([HEADER, *cells])


def _shapes(rows: list[Row]) -> list[str]:
    """Return the shapes as texts whose sizes stand below each other, each dimension in its column.

    Those of the batch are counted from the bar to the left, as those of plates are.
    """
    batch = max((len(row.batch) for row in rows), default=0)
    event = max((len(row.event) for row in rows), default=0)
    cells = [
        [
            *("",) * (batch - len(row.batch)),
            *map(str, row.batch),
            "|",
            *map(str, row.event),
            *("",) * (event - len(row.event)),
        ]
        for row in rows
    ]
    return aligned(cells, right=range(batch + 1 + event)).split("\n") if cells else []


def html_of(nodes: Mapping[str, Node]) -> str:
    """Return the same table for a notebook, every text escaped."""
    lines = ["<table>", "<tr>" + "".join(f"<th>{name}</th>" for name in HEADER) + "</tr>"]
    for row in rows_of(nodes.values()):
        event = f" | {' '.join(map(str, row.event))}" if row.event else ""
        shape = f"{' '.join(map(str, row.batch))}{event}"
        cells = (
            f"<td>{html.escape(row.site)}</td>",
            f"<td>{html.escape(row.what)}</td>",
            f'<td style="text-align: right; font-family: monospace">{shape}</td>',
            f"<td>{html.escape(row.note)}</td>",
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</table>"])


def _note(node: Node) -> str:
    if node.type == "plate":
        dim = node.infer.get("dim")
        size, part = node.infer.get("size"), len(node.value)
        place = "in turn" if dim is None else f"dim {dim}"
        return place if part == size else f"{place}, {part} of {size}"
    return ", ".join(map(_plate_note, node.cond_indep_stack))


def _plate_note(plate: Plate) -> str:
    return plate.name if plate.turn is None else f"{plate.name}[{plate.turn}]"


def _density_shape(node: Node) -> Shape | None:
    """Return the shape of the log-probability, None where there is none to be had."""
    try:
        return tuple(node.log_prob.shape)
    except (NoDensityError, ModifiedParameterError):
        return None
