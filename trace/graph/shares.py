"""Shares: how much of the variance of the gradient each site has, by which a graph is coloured.

They come from a monitor, from a study, or from the folder that a study has left.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.graph.loop_names import stem

FILE = "sites.csv"
"""The table that a study leaves in its folder, with the columns site and share."""


@runtime_checkable
class Measured(Protocol):
    """What has measured shares: an `ancestral.Monitor`, or what `ancestral.study` returns."""

    def shares(self) -> Mapping[str, float]:
        """Return the share of each site in the sum of the variances."""
        ...


Shares = Mapping[str, float] | Measured | str | Path
"""The shares of sites by name, what has measured them, or the folder of a study."""

V = TypeVar("V", bound=Any)


def shares_of(given: Shares) -> Mapping[str, float]:
    """Return shares by site.

    Raises:
        TypeError: if they are of no kind that has any.
        ValueError: if a folder has none.
        OSError: if a file cannot be read.
    """
    if isinstance(given, str | Path):
        return _read(Path(given))
    if isinstance(given, Measured) and not isinstance(given, type):
        return given.shares()
    if not isinstance(given, Mapping):
        raise TypeError(
            "shares must be an an.Monitor, what an.study returned, the folder of a study, or a "
            f"dictionary of numbers by site, not {kind_of(given)}"
        )
    return given


def _read(path: Path) -> dict[str, float]:
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(
            f"{str(file)!r}, a table of shares, is not there: a study leaves it in its folder when "
            "it has ended; begin one by ancestral study ... --out, or start one that was "
            "interrupted again"
        )
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            return {row["site"]: float(row["share"]) for row in csv.DictReader(lines)}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{str(file)!r} is no table of shares ({error}); expected columns site and share, as "
            "a study writes them"
        ) from error


def with_shares(vertices: Sequence[V], shares: Mapping[str, float]) -> Iterator[V]:
    """Yield the vertices of a graph with their shares; see `Graph.colored`.

    Raises:
        ValueError: if a share is none.
    """
    for name, share in shares.items():
        if not isinstance(share, int | float) or not -1e-9 <= share <= 1 + 1e-9:
            raise ValueError(f"the share of {name!r} is {share!r}; expected a number in [0, 1]")
    repeats: dict[Any, list[str]] = {}
    for vertex in vertices:
        if vertex.kind in _DRAWN:
            repeats.setdefault((stem(vertex.name), vertex.location), []).append(vertex.name)
    found = {name: shares[name] for names in repeats.values() for name in names if name in shares}
    for (name, _), names in repeats.items():
        own = [each for each in names if each in shares and each != name]
        if name in shares and not own and (name in names or name not in found):
            found |= dict.fromkeys(names, shares[name] / len(names))
    for vertex in vertices:
        yield replace(vertex, share=found.get(vertex.name))


_DRAWN = frozenset({"score", "pathwise"})
