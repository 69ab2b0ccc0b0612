"""Text tables: cells in aligned columns, for the terminal."""

from collections.abc import Collection, Sequence


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
