"""Pyro's stack: the bridge stands on it while a recording is open, if Pyro is there at all."""

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

from ancestral.trace.context.patch import Patch, subclasses
from ancestral.trace.context.stack import local, suspended
from ancestral.trace.context.switch import Interceptor, unmet

_GUIDES = (("pyro.infer.autoguide.guides", "AutoGuide"), ("pyro.contrib.easyguide", "EasyGuide"))
_PREPARE = "_setup_prototype"


class PyroStack(Interceptor):
    """Puts the bridge at the far end of Pyro's stack.

    There it is asked last, when all of Pyro's handlers have had their say. The stack is one for all
    threads; the bridge does nothing in those that record nothing.
    """

    def found(self) -> Iterable[Patch]:
        """Return what runs a model once to learn its shape, which is no part of the program."""
        return [
            Patch(kind, _PREPARE, _outside)
            for module, name in _GUIDES
            if (root := getattr(sys.modules.get(module), name, None)) is not None
            for kind in (root, *subclasses(root))
            if _PREPARE in vars(kind)
        ]

    def enter(self) -> None:
        """Put it there."""
        if "pyro.poutine.runtime" in sys.modules:
            from ancestral.trace.pyro.bridge import join  # imports Pyro

            join()

    def leave(self) -> None:
        """Take it away."""
        if "ancestral.trace.pyro.bridge" in sys.modules:
            from ancestral.trace.pyro.bridge import part

            part()


def _outside(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that no recording sees."""

    @functools.wraps(original)
    def prepared(*args: Any, **kwargs: Any) -> Any:
        was_inside, local.is_inside = local.is_inside, True
        try:
            with suspended(), unmet():
                return original(*args, **kwargs)
        finally:
            local.is_inside = was_inside

    return prepared
