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

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.display.text_table import aligned
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.node import ModifiedParameterError, Node, NoDensityError
from ancestral.trace.nodes.plate_frame import Plate


class _Row(NamedTuple):
    """One line of a table of shapes."""

    site: str
    what: str
    batch: Shape
    event: Shape = ()
    note: str = ""


def format_shapes(nodes: Mapping[str, Node]) -> str:
    """Return the shapes of all nodes as lines of aligned columns, the batch before the bar."""
    rows = [row for node in nodes.values() for row in _rows(node)]
    shapes = zip(rows, _shapes(rows), strict=True)
    cells = [(row.site, row.what, shape, row.note) for row, shape in shapes]
    return aligned([("site", "what", "shape", "plates"), *cells])


def _rows(node: Node) -> Iterator[_Row]:
    """Yield the shapes of a node: of its distribution, its value and its log-probability."""
    shape = tuple(node.value.shape)
    if node.fn is None:
        what = node.type if node.type != "deterministic" else "value"
        cut = len(shape) - node.event_dims
        yield _Row(node.name, what, shape[:cut], shape[cut:], _note(node))
        return
    batch, event = tuple(node.fn.batch_shape), tuple(node.fn.event_shape)
    if isinstance(node.fn, Factor):  # it has no value
        yield _Row(node.name, "factor", batch, (), _note(node))
    else:
        yield _Row(node.name, "dist", batch, event, _note(node))
        cut = len(shape) - len(event)
        yield _Row("", "observed" if node.is_observed else "value", shape[:cut], shape[cut:])
    density = density_of(node)
    if density is None:
        yield _Row("", "log_prob", (), note="none")
    else:
        yield _Row("", "log_prob", tuple(density.shape))


def _shapes(rows: list[_Row]) -> list[str]:
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


def _note(node: Node) -> str:
    if node.type == "plate":
        dim = node.infer.get("dim")
        size, part = node.infer.get("size"), len(node.value)
        place = "in turn" if dim is None else f"dim {dim}"
        return place if part == size else f"{place}, {part} of {size}"
    return ", ".join(map(_plate_note, node.cond_indep_stack))


def _plate_note(plate: Plate) -> str:
    return plate.name if plate.turn is None else f"{plate.name}[{plate.turn}]"


def density_of(node: Node) -> Tensor | None:
    """Return the log-probability of a node, None where there is none to be had."""
    try:
        return None if node.fn is None else node.log_prob
    except (NoDensityError, ModifiedParameterError):
        return None
