"""Python's collector, which waits while a gradient is made ready.

For every few hundred objects that are made it looks at the youngest, and for every quarter that is
added at all that the process holds, the modules imported included. A recording of many sites makes
some objects for each when its gradient is asked for, none of which refers to itself by a circle: to
look at them finds nothing, and takes longer than to make them. What others leave behind meanwhile,
a baseline of the user or another thread, is collected as soon as this is done.
"""

import functools
import gc
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Uncollected:
    """A block in which the collector waits, unless it does anyway.

    >>> with Uncollected():
    ...     gc.isenabled()
    False
    >>> gc.isenabled()
    True
    """

    __slots__ = ("_is_ours",)

    def __enter__(self) -> None:
        """Let it wait."""
        self._is_ours = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        """Let it go on."""
        if self._is_ours:
            gc.enable()


def uncollected(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that is run in such a block."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with Uncollected():
            return function(*args, **kwargs)

    return run
