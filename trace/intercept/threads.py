"""Threads and processes: work started within a recording, and handed over by it.

A thread of Python begins in an empty context, and draws there would go unseen though what they
depend on is recorded. So a thread that is started while a recording is open, a call that is
handed to a pool, new or old, and a callback of a loop in another thread run in a copy of the
context that they come from. In another process there is no recording to take part in: see
`ancestral.trace.intercept.threads`.
"""

import functools
import os
import threading
from asyncio import Handle
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from contextvars import copy_context
from multiprocessing.pool import Pool
from multiprocessing.process import BaseProcess
from typing import Any

from ancestral.provenance.tensor.control_flow import decisions_of, recording
from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.context.other_threads import UnrecordedDrawError, lost_away
from ancestral.trace.context.patch import Descendants, Group, Patch, is_of_a_library
from ancestral.trace.context.stack import is_recorded, local
from ancestral.trace.context.switch import Interceptor, joined, switch
from ancestral.trace.intercept.opaque import tensors_within
from ancestral.trace.intercept.unrecorded_threads import working_for
from ancestral.trace.recording.trace import Trace

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


def _starting(original: _Function) -> _Function:
    """Return what starts a thread or a process."""

    @functools.wraps(original)
    def start(self: Any) -> None:
        if local.traces:
            self.run = functools.partial(free, self.run) if is_worker(self) else Task(self.run)
        original(self)

    return start


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


class Threads(Interceptor):
    """Hands the recordings of a thread on to those that it starts, or gives work to."""

    def __init__(self) -> None:
        self._known: dict[type, None] = {ThreadPoolExecutor: None}
        self._executors = Descendants(Executor, self._known.__contains__, ("submit",))
        self.kinds = (self._executors,)

    def patches(self) -> Iterator[Patch]:
        """Return what starts threads, what hands work over, and what tells of executors to come."""
        for owner in (threading.Thread, BaseProcess):
            yield Patch(owner, "start", _starting)
        yield Patch(Handle, "_run", _running)
        for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
            yield Patch(Pool, name, _handing)
        yield from _submitting(ThreadPoolExecutor)
        yield Patch(Executor, "__init_subclass__", lambda _: classmethod(self._defined))

    def found(self) -> Iterable[Patch]:
        """Return what hands work over to other classes of executors, of libraries once for all."""
        others = self._executors.others()
        lasting = [kind for kind in others if is_of_a_library(kind)]
        if lasting:
            self._known.update(dict.fromkeys(lasting))
            switch.wait(patch for kind in lasting for patch in _submitting(kind))
        return [p for kind in others if kind not in self._known for p in _submitting(kind)]

    def _defined(self, kind: Any, /, **options: Any) -> None:
        """Meet an executor that is defined, or imported, while a recording is open."""
        super(Executor, kind).__init_subclass__(**options)  # type: ignore[misc]
        switch.replace(Group(_submitting(kind)))


def _submitting(kind: type) -> Iterator[Patch]:
    if "submit" in vars(kind):
        yield Patch(kind, "submit", _handing)


def away(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function for a recording of another process.

    Raises:
        UnrecordedDrawError: if it draws, or returns what was drawn in its own recording, and
            there is something to learn.
    """
    with ExitStack() as work:
        _refuse(work)
        result = function(*args, **kwargs)
    for tensor in tensors_within(result):
        found = provenance(tensor)
        trace = found.universe.owner if found is not None and found.universe.is_adoptable else None
        for node in trace.everything if isinstance(trace, Trace) else ():
            if node.is_drawn and node.is_learned:
                raise UnrecordedDrawError(lost_away(node.name, node.location))
    return result


def free(function: Callable[..., Any]) -> Any:
    """Call what a worker of a pool runs, whose tasks say themselves what they work for."""
    work = working_for.get()
    if work is not None:
        work.close()
    return function()


def is_worker(process: Any) -> bool:
    """Return whether a process that has not begun is a worker of a pool."""
    target = getattr(process, "_target", None)
    module = str(getattr(target, "__module__", "")).rpartition(".")[2]
    return (module, getattr(target, "__name__", "")) in _WORKERS


_WORKERS = {
    ("pool", "worker"),
    ("process", "_process_worker"),
    ("process_executor", "_process_worker"),  # of loky
}


def _refuse(work: ExitStack) -> None:
    """Refuse draws with something to learn in this process until the work ends."""
    switch.enter()
    work.callback(switch.leave)
    work.enter_context(joined())
    work.callback(working_for.set, working_for.get())
    working_for.set(work)


def _forked() -> None:
    """Leave the recordings of the parent, in a process that was forked."""
    traces = local.traces
    if local.audit is not None:
        local.audit.end()
    for trace in traces:
        trace.is_open = False
        decisions_of(trace.universe).is_recording = False
    recording.set(None)
    local.recordings = 0
    switch.abandon()
    if traces:
        _refuse(ExitStack())


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing is forked
    os.register_at_fork(after_in_child=_forked)
