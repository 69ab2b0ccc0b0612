"""Threads: what is started within a recording takes part in it, and so does what is handed over.

A thread of Python begins in an empty context, and draws there would go unseen though what they
depend on is recorded. So a thread that is started while a recording is open, a call that is
handed to a pool, new or old, and a callback of a loop in another thread run in a copy of the
context that they come from. In another process there is no recording to take part in: see
`ancestral.trace.processes`.
"""

import functools
import os
import threading
from asyncio import Handle
from collections.abc import Callable
from concurrent.futures import Executor
from contextvars import copy_context
from multiprocessing.pool import Pool
from multiprocessing.process import BaseProcess
from typing import Any

from ancestral.trace.interceptors import Replacing, interceptors, joined, subclasses
from ancestral.trace.processes import away, free, is_worker
from ancestral.trace.stack import is_recorded, local

_Function = Callable[..., Any]


class Task:
    """A function that runs in the recordings that were open where it was handed over."""

    def __init__(self, function: _Function) -> None:
        """Take the function, and the recordings of this context."""
        self._function = function
        self._context = copy_context()
        self._process = os.getpid()
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; many threads may at once."""
        if os.getpid() != self._process:  # this one was forked
            return away(self._function, *args, **kwargs)
        return self._context.copy().run(self._within, *args, **kwargs)

    def _within(self, *args: Any, **kwargs: Any) -> Any:
        with joined():
            return self._function(*args, **kwargs)

    def __reduce__(self) -> Any:
        """Go to another process as a function that draws nothing there."""
        return functools.partial, (away, self._function)


@functools.cache
def _starting(original: _Function) -> _Function:
    """Return what starts a thread or a process."""

    @functools.wraps(original)
    def start(self: Any) -> None:
        if local.traces:
            self.run = functools.partial(free, self.run) if is_worker(self) else Task(self.run)
        original(self)

    return start


@functools.cache
def _handing(original: _Function) -> _Function:
    """Return a method of a pool that takes a function first."""

    @functools.wraps(original)
    def hand(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(self, *args, **kwargs)
        if args:
            args = (_taking_part(args[0]), *args[1:])
        elif "func" in kwargs:
            kwargs["func"] = _taking_part(kwargs["func"])
        return original(self, *args, **kwargs)

    return hand


def _taking_part(function: _Function) -> Task:
    return function if isinstance(function, Task) else Task(function)


@functools.cache
def _running(original: _Function) -> _Function:
    """Return what runs a callback of a loop, whose thread may be older than the recording."""

    @functools.wraps(original)
    def run(self: Any) -> None:
        if local.recordings or not is_recorded(self._context):
            original(self)
        else:
            with joined():
                original(self)

    return run


class _Threads(Replacing):
    """Hands the recordings of a thread on to those that it starts, or gives work to."""

    def begin(self) -> None:
        """Take the places of what starts threads and of what hands work over."""
        for owner in (threading.Thread, BaseProcess):
            self.replace(owner, "start", _starting(vars(owner)["start"]))
        self.replace(Handle, "_run", _running(vars(Handle)["_run"]))
        for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
            self.replace(Pool, name, _handing(vars(Pool)[name]))
        for kind in subclasses(Executor):
            self._meet(kind)
        hook: Any = classmethod(self._defined)
        self.replace(Executor, "__init_subclass__", hook)

    def _meet(self, kind: type) -> None:
        if "submit" in vars(kind):
            self.replace(kind, "submit", _handing(vars(kind)["submit"]))

    def _defined(self, kind: Any, /, **options: Any) -> None:
        """Meet an executor that is defined, or imported, while a recording is open."""
        super(Executor, kind).__init_subclass__(**options)  # type: ignore[misc]
        self._meet(kind)


interceptors.append(_Threads())
