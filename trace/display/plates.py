"""Plates: those of a trace, as a tuple that is shown as a table.

>>> print(Plates([Extent("data", 100, 20, (("z", 0), ("x", 0)), is_declared=True)]))
plate  size  here  from      sites and their dimensions
data    100    20  declared  z 0, x 0
"""

from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.graph.find_plates import Extent


class Plates(tuple[Extent, ...], Tabular):
    """The plates of a trace, in program order; a dimension is counted from the left.

    `here` of a plate's repetitions are there. A plate whose repetitions come one after the other
    has no dimension.
    """

    __slots__ = ()

    def table(self) -> Table:
        """Return a row for each plate."""
        rows = [
            (
                plate.name,
                str(plate.size),
                str(plate.subsample_size),
                "declared" if plate.is_declared else "found",
                ", ".join(name if dim is None else f"{name} {dim}" for name, dim in plate.dims),
            )
            for plate in self
        ]
        head = ("plate", "size", "here", "from", "sites and their dimensions")
        return Table(head, rows, right={1, 2})
