"""Drawing: the functions that draw graphs, which a higher layer installs.

This layer knows nothing of pictures; see `ancestral.tools.render.render`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Drawing(Protocol):
    """What draws a graph into a file."""

    def __call__(
        self,
        graph: Any,
        path: str | Path,
        /,
        *,
        limit: float,
        is_folded: bool | None,
        with_params: bool,
    ) -> Path:
        """Write the picture to `path` and return it."""
        ...


class Paging(Protocol):
    """What makes a page of a graph."""

    def __call__(
        self, graph: Any, /, *, limit: float, is_folded: bool | None, with_params: bool
    ) -> str:
        """Return the page."""
        ...


drawings: list[Drawing] = []
pages: list[Paging] = []
mimes: list[Callable[[Any], dict[str, str]]] = []


def install(drawing: Drawing, page: Paging, mime: Callable[[Any], dict[str, str]]) -> None:
    """Set the functions that draw graphs."""
    drawings[:] = [drawing]
    pages[:] = [page]
    mimes[:] = [mime]
