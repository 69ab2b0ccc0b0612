"""The open recordings of each thread: the only global state there is."""

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ancestral.provenance.algebra import Provenance
    from ancestral.trace.audit import Auditor
    from ancestral.trace.record import Trace


class _Local(threading.local):
    """What one thread is doing."""

    def __init__(self) -> None:
        self.traces: list[Trace] = []  # open recordings, outermost first
        # What reached the functions that run out of sight, for the draws within them.
        self.around: list[Provenance] = []
        self.audit: Auditor | None = None  # follows everything a second time
        self.is_inside = False  # a draw or a density: what it does inside is its own affair


local = _Local()
