"""Watch: whether the classes that a plan was made of are what they were.

The compiler guards what a function reads, but not the methods of classes: of those that a recording
of the loss met, it is looked at each step whether somebody has replaced one.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.distributions import Distribution, Transform

from ancestral.estimators.capture.refusal import is_of_library
from ancestral.trace.nodes.distribution_params import parts_of

_OF_PARTS = ("sample", "rsample", "log_prob", "__init__", "expand", "__call__", "entropy")
_OF_MODULES = ("forward", "__call__")
_COMMON = frozenset({object, nn.Module, Transform})


class Watch:
    """The methods of some classes, as they were when it was made."""

    def __init__(self, fns: Iterable[Distribution], modules: Iterable[nn.Module]) -> None:
        """Take the distributions, with all that they are composed of, and the modules."""
        kinds = dict.fromkeys(type(part) for fn in fns for part in parts_of(fn))
        layers = dict.fromkeys(map(type, modules))
        watched = [
            *((base, name) for base in _bases(kinds) for name in _OF_PARTS),
            *((base, name) for base in _bases(layers) for name in _OF_MODULES),
        ]
        self._readers = [(vars(base).get, name) for base, name in watched]
        self._known = self._read()

    @property
    def is_changed(self) -> bool:
        """Whether any method was replaced since, by another than the library itself."""
        found = self._read()
        if found == self._known:
            return False
        if list(map(_own, found)) != list(map(_own, self._known)):
            return True
        self._known = found
        return False

    def _read(self) -> list[Any]:
        return [get(name) for get, name in self._readers]


def _bases(kinds: Iterable[type]) -> list[type]:
    return [*dict.fromkeys(b for kind in kinds for b in kind.__mro__ if b not in _COMMON)]


def _own(method: Any) -> Any:
    """Return what a method is without what a recording has put around it."""
    while is_of_library(getattr(method, "__code__", None)) and hasattr(method, "__wrapped__"):
        method = method.__wrapped__
    return method
