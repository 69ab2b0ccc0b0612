"""Hiding: which statements of a block the handlers and the recordings around it see."""

from collections.abc import Callable
from dataclasses import replace

from ancestral.trace.request import Handler, Request


class block(Handler):  # noqa: N801 (used as a verb: with block("z"): ...)
    """Hide statements of a block from the handlers and the recordings around it.

    What is drawn out of sight is drawn nevertheless: a gradient of what depends on it counts its
    score.

    Args:
        names: the names of the sites to hide; without any, all of them.
        where: hide what it says of a request instead.

    Raises:
        ValueError: if both are given.
        TypeError: if a name is no text.
    """

    def __init__(self, *names: str, where: Callable[[Request], bool] | None = None) -> None:
        """Take what is to be hidden."""
        if names and where is not None:
            raise ValueError("block takes either names or where=, not both")
        chosen = _texts("block", names)
        self._is_hidden = where or (lambda request: not chosen or request.name in chosen)

    def ask(self, request: Request) -> Request:
        """Stop a request that is to be hidden."""
        return replace(request, is_stopped=True) if self._is_hidden(request) else request


class expose(Handler):  # noqa: N801
    """Hide all statements of a block but those named from the handlers and recordings around it.

    Args:
        names: the names of the sites that are seen.

    Raises:
        TypeError: if a name is no text.
    """

    def __init__(self, *names: str) -> None:
        """Take what is seen."""
        self._names = _texts("expose", names)

    def ask(self, request: Request) -> Request:
        """Stop a request that is not exposed."""
        return request if request.name in self._names else replace(request, is_stopped=True)


def _texts(verb: str, names: tuple[str, ...]) -> frozenset[str]:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"{verb} takes names one by one, as in {verb}('a', 'b'), not a "
                f"{type(name).__name__}: unpack a list of them with a star"
            )
    return frozenset(names)
