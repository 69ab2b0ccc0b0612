"""Stack of open recordings, one for each context: the only global state there is.

A context is what a thread or a task of `asyncio` runs in, so that recordings of tasks that take
turns do not mix. What a draw does inside, between two suspensions, is an affair of the thread.
"""

import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, Protocol
from weakref import ref

from ancestral.provenance.algebra.provenance import Provenance, Universe


class Recording(Protocol):
    """What draws need of an open recording; `ancestral.trace.recording.trace.Trace` is one."""

    is_open: bool
    has_ended: bool  # whether its block is over
    begun: int
    universe: Universe
    ledger: Any
    straight_through: dict[str, Any]

    @property
    def around(self) -> "Recording | None":
        """The outermost recording, whose sources it shares, None if it is that itself."""
        ...

    @property
    def everything(self) -> Sequence[Any]:
        """The nodes in program order."""
        ...

    def __contains__(self, name: object, /) -> bool:
        """Return whether there is a node of this name."""
        ...

    def get(self, name: str, /) -> Any:
        """Return the node of this name, None where there is none."""
        ...

    def fresh_name(self, base: str, /) -> str:
        """Return a name that is not taken."""
        ...

    def add(self, node: Any, /, *, is_hidden: bool = False) -> None:
        """Append a node, or take in a draw that is not to be seen."""
        ...


class Auditing(Protocol):
    """What draws need of an audit; `ancestral.trace.audit.auditor.Auditor` is one."""

    def drawn(self, node: Any, held: Any, value: Any, shown: Any, /) -> None:
        """Note a draw."""
        ...

    def observed(self, node: Any, held: Any, /) -> None:
        """Note an observation."""
        ...

    def declared(self, node: Any, /) -> None:
        """Note a cost."""
        ...

    def end(self) -> None:
        """Follow no more."""
        ...


def outermost_of(trace: Recording) -> Recording:
    """Return the recording whose sources those of a recording are."""
    return trace if trace.around is None else trace.around


_open: ContextVar[tuple[Recording, ...]] = ContextVar("open recordings", default=())


MOST_KEPT = 8
"""How many recordings of a thread that have ended live on though nobody holds their trace.

A loss that is kept alone can be asked for its gradient later. What is never asked, as in the
evaluation of a model, goes when as many others have ended that were not asked either.
"""


def is_recorded(context: Context) -> bool:
    """Return whether a recording is open in another context than this one."""
    return any(trace.is_open for trace in context.get(_open, ()))


@contextmanager
def suspended() -> Generator[None]:
    """Let what runs in the block be no part of the open recordings."""
    token = _open.set(())
    try:
        yield
    finally:
        _open.reset(token)


class _Local(threading.local):
    """What one thread is doing."""

    def __init__(self) -> None:
        self.recordings = 0  # how many have begun in this thread and not ended
        # What reached the functions that are not followed, for the draws within them.
        self.around: list[Provenance] = []
        self.audit: Auditing | None = None  # follows everything a second time
        self.event_dims = 0  # dimensions that `Independent` sums a density over that is being asked
        self.ended: list[ref[Universe]] = []  # recordings of this thread, the oldest first
        self.without_graph = 0  # functions, in which what is learned does not show, that run
        self.is_inside = False  # a draw or a density: what it does inside is its own affair

    @property
    def traces(self) -> tuple[Recording, ...]:
        """The open recordings, outermost first."""
        found = _open.get()
        # A task may outlive the recording that it was started in.
        for trace in found:  # asked some times for each draw: no generator
            if not trace.is_open:
                return tuple(t for t in found if t.is_open)
        return found

    def push(self, trace: Recording) -> None:
        """Open a recording."""
        _open.set((*self.traces, trace) if _open.get() else (trace,))
        outermost_of(trace).begun += 1

    def pop(self, trace: Recording) -> None:
        """Close a recording, which need not be the innermost: generators end when they like.

        The outermost, whose sources they all share, is open until the last of them has ended.
        """
        outermost = outermost_of(trace)
        trace.has_ended = True
        outermost.begun -= 1
        trace.is_open = trace is outermost
        if not outermost.begun:
            outermost.is_open = False
            self._keep(trace.universe)
        found = _open.get()
        _open.set(() if all([each.has_ended for each in found]) else self.traces)

    def _keep(self, universe: "Universe") -> None:
        """Keep a recording that has ended, and let go of the oldest, if that makes too many."""
        ended = self.ended
        while ended and _owner(ended[-1]) is None:  # that of the step before, most often
            ended.pop()
        ended.append(ref(universe))
        if len(ended) > MOST_KEPT:
            alive = [each for each in ended if _owner(each) is not None]
            for oldest in alive[:-MOST_KEPT]:
                held = oldest()
                if held is not None:
                    held.release()
            self.ended = alive[-MOST_KEPT:]


def _owner(kept: "ref[Universe]") -> object:
    """Return what owns a universe, None if it or the universe is no more."""
    universe = kept()
    return None if universe is None else universe.owner


local = _Local()
