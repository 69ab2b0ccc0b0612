"""Threads: what is started within a recording takes part in it.

A thread of Python begins in an empty context, and draws there would go unseen though what they
depend on is recorded. So a thread that is started while a recording is open, and a call that is
handed to a pool of threads, runs in a copy of the context that it was started from.
"""

import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ancestral.trace.interceptors import Replacing, interceptors, joined
from ancestral.trace.stack import local

_Function = Callable[..., Any]


def _taking_part(function: _Function) -> _Function:
    """Return a function that runs in the recordings that are open now, wherever it is called."""
    context = contextvars.copy_context()

    def within(*args: Any, **kwargs: Any) -> Any:
        with joined():
            return function(*args, **kwargs)

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        return context.run(within, *args, **kwargs)

    return called


def _starting(original: _Function) -> _Function:
    @functools.wraps(original)
    def start(self: threading.Thread) -> None:
        if local.traces:
            self.run = _taking_part(self.run)  # type: ignore[method-assign]
        original(self)

    return start


def _submitting(original: _Function) -> _Function:
    @functools.wraps(original)
    def submit(self: ThreadPoolExecutor, fn: _Function, /, *args: Any, **kwargs: Any) -> Any:
        return original(self, _taking_part(fn) if local.traces else fn, *args, **kwargs)

    return submit


class _Threads(Replacing):
    """Hands the recordings of a thread on to those that it starts."""

    def begin(self) -> None:
        """Take the places of what starts threads."""
        self.replace(threading.Thread, "start", _starting(threading.Thread.start))
        self.replace(ThreadPoolExecutor, "submit", _submitting(ThreadPoolExecutor.submit))


interceptors.append(_Threads())
