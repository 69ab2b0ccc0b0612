"""Processes: another process has no part in a recording, and draws nothing for it unnoticed.

What it would draw comes back as a plain tensor without its score. So in a process that was started,
or given work to, within a recording a draw with something to learn is refused; others are data.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from ancestral.provenance.control import decisions_of, recording
from ancestral.provenance.tensor import provenance
from ancestral.trace.apart import UnrecordedDrawError, lost_away
from ancestral.trace.interceptors import interceptors, joined
from ancestral.trace.opaque import tensors_within
from ancestral.trace.stack import local
from ancestral.trace.trace import Trace
from ancestral.trace.unrecorded import working_for


def away(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a function for a recording of another process.

    Raises:
        UnrecordedDrawError: if it draws, or returns what was drawn in a recording of its own, and
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
    for interceptor in interceptors:
        interceptor.enter()
        work.callback(interceptor.leave)
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
    for interceptor in reversed(interceptors):
        interceptor.abandon()
    if traces:
        _refuse(ExitStack())


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing is forked
    os.register_at_fork(after_in_child=_forked)
