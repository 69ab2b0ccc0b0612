"""Shapes of distributions that are given plain draws with all their values: they tell of these too.

An op that reads the shape of a tensor is refused by `plain_ops`; that of a distribution is no op.
"""

import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch.distributions import Distribution

from ancestral.provenance.tensor import storage
from ancestral.trace.context.patch import Group, Patch
from ancestral.trace.context.switch import switch
from ancestral.trace.enumeration.plain_ops import is_of_user, refusal, sites_of
from ancestral.trace.nodes.distribution_params import parameters


class _Shapes:
    """The properties of torch's distributions that tell of a batch, met while a block is open."""

    def __init__(self) -> None:
        self._open = 0
        self._group: Group | None = None

    @contextmanager
    def met(self) -> Generator[None]:
        """Refuse within the block what a user reads."""
        with switch.lock:
            if not self._open:
                self._group = self._group or Group(_patches())
                self._group.replace()
            self._open += 1
        try:
            yield
        finally:
            with switch.lock:
                self._open -= 1
                if not self._open and self._group is not None:
                    self._group.restore()


def _patches() -> Iterator[Patch]:
    """Yield the properties: of all classes, and of those that tell the shape of a parameter."""
    yield Patch(Distribution, "batch_shape", _guarded, is_raw=True)
    for kind in vars(torch.distributions).values():
        if inspect.isclass(kind) and isinstance(vars(kind).get("param_shape"), property):
            yield Patch(kind, "param_shape", _guarded, is_raw=True)


def _guarded(original: Any) -> property:
    get: Callable[[Any], Any] = original.fget

    @wraps(get)
    def read(self: Distribution) -> Any:
        if storage.is_guarded() and is_of_user(sys._getframe(1)):
            sites = sites_of(tensor for tensor, _ in parameters(self))
            if sites:
                raise refusal(f"{get.__name__} of {type(self).__name__} tells their number", sites)
        return get(self)

    return property(read)


shapes = _Shapes()
"""Those of this process."""
