"""Tables: cells in aligned columns for the terminal, and as HTML for a notebook."""

import html
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    r"""Return rows of equally many cells as lines of aligned columns.

    >>> print(aligned([["name", "size"], ["z", "10"], ["x", "2"]], right={1}))
    name  size
    z       10
    x        2

    A cell is one line: what cannot be printed is shown as Python would write it.

    Args:
        rows: the cells.
        right: the columns whose cells are aligned at the right, as numbers are.
    """
    rows = [list(map(_printable, row)) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _printable(cell: str) -> str:
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in cell)


@dataclass(frozen=True)
class Table:
    """Rows below a head, if there is one, with lines of text above and below them.

    `right` are the columns that are aligned at the right.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[int] = ()
    above: Sequence[str] = ()
    below: Sequence[str] = ()

    def __str__(self) -> str:
        """Return it for the terminal."""
        rows = [aligned([self.head, *self.rows], self.right)] if self.head else []
        return "\n".join([*self.above, *rows, *self.below])

    def html(self) -> str:
        """Return it for a notebook, which dresses tables by itself."""
        above, below = ([f"<p>{html.escape(x)}</p>" for x in y] for y in (self.above, self.below))
        rows = (f"<tr>{self._cells('td', row)}</tr>" for row in self.rows)
        head = f"<thead><tr>{self._cells('th', self.head)}</tr></thead>"
        table = ["<table>", head, "<tbody>", *rows, "</tbody>", "</table>"] if self.head else []
        return "\n".join([*above, *table, *below])

    def _cells(self, tag: str, cells: Sequence[str]) -> str:
        sides = ("right" if i in self.right else "left" for i in range(len(cells)))
        return "".join(
            f'<{tag} style="text-align: {side}">{html.escape(_printable(cell))}</{tag}>'
            for cell, side in zip(cells, sides, strict=True)
        )


class Tabular(ABC):
    """A base of what is shown as a table, in the terminal and in a notebook."""

    @abstractmethod
    def table(self) -> Table:
        """Return the table."""

    def __str__(self) -> str:
        """Show it as aligned columns."""
        return str(self.table())

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        return self.table().html()
