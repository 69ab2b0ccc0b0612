"""Watch: whether the classes that a plan was made of are what they were.

The compiler guards what a function reads, but not the methods of classes: of those that a recording
of the loss met, it is looked at each step whether somebody has replaced one.
"""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.distributions import Distribution

from ancestral.trace.nodes.distribution_params import parts_of

_METHODS = ("sample", "rsample", "log_prob", "__init__", "expand", "forward", "__call__")


class Watch:
    """The methods of some classes, as they were when it was made."""

    def __init__(self, fns: Iterable[Distribution], modules: Iterable[nn.Module]) -> None:
        kinds = {type(part) for fn in fns for part in parts_of(fn)}
        kinds |= {type(module) for module in modules}
        bases = {base for kind in kinds for base in kind.__mro__ if base is not object}
        self._known: list[tuple[Callable[[str], Any], str, Any]] = [
            (vars(base).get, name, vars(base).get(name)) for base in bases for name in _METHODS
        ]

    @property
    def is_changed(self) -> bool:
        """Whether any method was replaced since."""
        return any([get(name) is not value for get, name, value in self._known])
