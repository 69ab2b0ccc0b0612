r"""Page: the tables of docs/measured.md, which a run of the benchmarks writes.

A table stands between two comments with its name; the words around it are left as they are.

>>> print(written("<!-- ops -->\nold\n<!-- end of ops -->", {"ops": "new"}))
<!-- ops -->
<BLANKLINE>
new
<BLANKLINE>
<!-- end of ops -->
"""

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

import ancestral
from ancestral.tools.bench.rows import Row

PAGE = Path(__file__).resolve().parents[2] / "docs" / "measured.md"


def written(page: str, tables: Mapping[str, str]) -> str:
    """Return a page with other tables.

    Raises:
        ValueError: if it has no place for one.
    """
    for name, table in tables.items():
        place = re.compile(f"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        if place.search(page) is None:
            raise ValueError(
                f"{PAGE} has no place for the table {name!r}: put the lines <!-- {name} --> and "
                f"<!-- end of {name} --> where it is to stand"
            )
        page = place.sub(lambda found, table=table: f"{found[1]}\n{table}\n\n{found[2]}", page)  # type: ignore[misc]  # bound now
    return page


def of_rows(rows: Iterable[Row]) -> str:
    """Return the rows of benchmarks as a table of Markdown."""
    cells = ([name.strip(), figure, bound] for name, figure, bound in map(_parts, rows))
    return of_cells(["what", "figure", "bound"], cells)


def _parts(row: Row) -> tuple[str, str, str]:
    name, figure, bound = row.cells()
    # One that goes on from the row above it stands further in.
    name = name if name == name.lstrip() else f"… {name.strip()}"
    return name, figure, bound.replace("  MISSED", ", **missed**")


def of_cells(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Return lines of cells as a table of Markdown."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


def machine() -> str:
    """Return what was measured on."""
    cores = len(os.sched_getaffinity(0))
    return (
        f"ancestral {ancestral.__version__}, torch {torch.__version__}, Python "
        f"{platform.python_version()}, {cores} cores of {platform.machine()}, one thread; load at "
        f"the start {os.getloadavg()[0]:.1f}"
    )
