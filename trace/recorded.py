"""Recorded functions: what ``record()`` makes of a function that it is put around."""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Generic, ParamSpec, TypeVar

from ancestral.trace.arguments import check_function

if TYPE_CHECKING:
    from ancestral.trace.record import Trace

P = ParamSpec("P")
R = TypeVar("R")


class NotRecordedError(RuntimeError):
    """A model or a function is asked for its trace before it was called."""

    def __init__(self, name: str) -> None:
        """Name the model."""
        super().__init__(f"this {name} has not been called yet: call it, then read its trace")


class Recorded(Generic[P, R]):
    """A function that is recorded whenever it is called; `trace` is that of the last call."""

    def __init__(
        self,
        function: Callable[P, R],
        begin: "Callable[[], AbstractContextManager[Trace]]",
    ) -> None:
        """Take the function, and what begins a recording.

        Raises:
            TypeError: if it is no function, or a generator or a coroutine, which would run outside.
        """
        check_function("record", function)
        functools.update_wrapper(self, function)
        self._function = function
        self._begin = begin
        self._trace: Trace | None = None

    def __repr__(self) -> str:
        """Show the function."""
        return f"Recorded({self._function!r})"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in a recording of its own."""
        with self._begin() as trace:
            self._trace = trace  # at once: it is readable if the function raises
            return self._function(*args, **kwargs)

    def get_trace(self, *args: P.args, **kwargs: P.kwargs) -> "Trace":
        """Call the function in a recording, and return that."""
        self(*args, **kwargs)
        return self.trace

    @property
    def trace(self) -> "Trace":
        """The recording of the last call.

        Raises:
            NotRecordedError: if there was none.
        """
        if self._trace is None:
            raise NotRecordedError(getattr(self._function, "__name__", "function"))
        return self._trace
