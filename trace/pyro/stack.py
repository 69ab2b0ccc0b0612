"""Pyro's stack: the bridge stands on it while a recording is open, if Pyro is there at all."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ancestral.trace.context.patch import Descendants, Patch, is_of_a_library
from ancestral.trace.context.stack import local, suspended
from ancestral.trace.context.switch import Interceptor, switch, unmet

_GUIDES = (("pyro.infer.autoguide.guides", "AutoGuide"), ("pyro.contrib.easyguide", "EasyGuide"))
_PREPARE = "_setup_prototype"


class PyroStack(Interceptor):
    """Puts the bridge at the far end of Pyro's stack.

    There it is asked last, when all of Pyro's handlers have had their say. The stack is one for all
    threads; the bridge does nothing in those that record nothing.
    """

    def __init__(self) -> None:
        self._known: dict[type, None] = {}  # whose preparation is met
        self._kinds: dict[type, Descendants] = {}
        self._join: Callable[[], None] | None = None
        self._part: Callable[[], None] | None = None

    @property
    def kinds(self) -> Iterable[Descendants]:  # type: ignore[override] # grows, as Pyro is imported
        """The guides that are imported."""
        return self._kinds.values()

    def found(self) -> Iterable[Patch]:
        """Meet what runs a model once to learn its shape, which is no part of the program.

        That of each guide of a library is replaced once: it does what it did where nobody records.
        """
        kinds = [kind for root in _roots() for kind in self._new(root)]
        lasting = [kind for kind in kinds if is_of_a_library(kind)]
        if lasting:
            self._known.update(dict.fromkeys(lasting))
            switch.stay(patch for kind in lasting for patch in _preparing(kind, stays=True))
        return [p for kind in kinds if kind not in self._known for p in _preparing(kind)]

    def _new(self, root: type) -> list[type]:
        if root not in self._kinds:
            self._kinds[root] = Descendants(root, self._known.__contains__, (_PREPARE,))
        others = self._kinds[root].others()
        return others if root in self._known else [root, *others]

    def enter(self) -> None:
        """Put it there."""
        if self._join is None:
            if "pyro.poutine.runtime" not in sys.modules:
                return
            from ancestral.trace.pyro.bridge import join, part  # imports Pyro

            self._join, self._part = join, part
        self._join()
        if len(self._kinds) < len(_GUIDES) and len(self._kinds) < len(list(_roots())):
            switch.look_anew()

    def leave(self) -> None:
        """Take it away."""
        if self._part is not None:
            self._part()


def _roots() -> Iterator[type]:
    """Yield the classes of guides that are imported."""
    for module, name in _GUIDES:
        root: type | None = getattr(sys.modules.get(module), name, None)
        if root is not None:
            yield root


def _preparing(kind: type, stays: bool = False) -> Iterator[Patch]:
    if _PREPARE in vars(kind):
        yield Patch(kind, _PREPARE, _outside, True, stays)


def _outside(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that no recording sees."""

    @functools.wraps(original)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            return original(*args, **kwargs)
        was_inside, local.is_inside = local.is_inside, True
        try:
            with suspended(), unmet():
                return original(*args, **kwargs)
        finally:
            local.is_inside = was_inside

    return prepared
