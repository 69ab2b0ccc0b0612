"""Python's collector, which waits while the gradient of a recording of many sites is made ready.

For every few hundred objects that are made it looks at the youngest, and for every quarter that is
added at all that the process holds, the modules imported included. When a gradient is asked for,
some objects are made for each site, none of which refers to itself by a circle: to look at them
finds nothing, and takes longer than to make them. What others leave behind meanwhile, a baseline of
the user or another thread, is collected as soon as this is done.

>>> with waiting if 2_000 > MANY else at_work:
...     gc.isenabled()
False
>>> gc.isenabled()
True
"""

import gc
import threading
from contextlib import nullcontext

MANY = 1_000
"""Sites of a recording for which the collector waits."""
at_work = nullcontext()


class _Waiting(threading.local):
    """The blocks of a thread in which the collector waits, if it did not before."""

    depth = 0
    was_on = False

    def __enter__(self) -> None:
        if not self.depth:
            self.was_on = gc.isenabled()
            gc.disable()
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if self.was_on and not self.depth:
            gc.enable()


waiting = _Waiting()
