"""Draws and densities of `torch.distributions`, caught while a recording is open.

The methods of every subclass, the user's too, are replaced when the first recording opens and put
back when the last one closes. Only the outermost call counts: what a draw does inside is its own.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.distributions import Distribution, Independent

from ancestral.provenance.tensor import ProvenanceTensor, provenance
from ancestral.trace.interceptors import Replacing, interceptors
from ancestral.trace.naming import argument_name, place
from ancestral.trace.node import factorized
from ancestral.trace.parameters import parameters
from ancestral.trace.record import draw, observe
from ancestral.trace.stack import local

_Method = Callable[..., Any]


def _drawing(original: _Method, is_reparameterized: bool) -> _Method:
    @functools.wraps(original)
    def drawn(self: Distribution, *args: Any, **kwargs: Any) -> Any:
        if local.is_inside or not local.traces:
            return original(self, *args, **kwargs)
        local.is_inside = True
        try:
            value = original(self, *args, **kwargs)
        finally:
            local.is_inside = False
        held = parameters(self)
        return draw(self, held, value, is_reparameterized=is_reparameterized, where=place())

    return drawn


def _scoring(original: _Method) -> _Method:
    @functools.wraps(original)
    def scored(self: Distribution, value: Any, *args: Any, **kwargs: Any) -> Any:
        # Independent only sums the density of its base, which is caught instead.
        if local.is_inside or not local.traces:
            return original(self, value, *args, **kwargs)
        if isinstance(self, Independent):
            return _grouped(original, self, value, *args, **kwargs)
        local.is_inside = True
        try:
            density = original(self, value, *args, **kwargs)
        finally:
            local.is_inside = False
        if isinstance(value, Tensor) and isinstance(density, Tensor):
            if provenance(value) is None:
                where = place()
                name = argument_name() or where.variable or type(self).__name__.lower()
                observe(self, value, density, where, name)
            elif isinstance(density, ProvenanceTensor):
                _mark_own(self, value, density)
        return density

    return scored


def _grouped(original: _Method, fn: Any, *args: Any, **kwargs: Any) -> Any:
    local.grouped += fn.reinterpreted_batch_ndims
    try:
        return original(fn, *args, **kwargs)
    finally:
        local.grouped -= fn.reinterpreted_batch_ndims


def _mark_own(fn: Distribution, value: Tensor, density: ProvenanceTensor) -> None:
    """Mark log q(z) of a recorded draw z, untouched since, under the q that drew it."""
    node = getattr(value, "_site", None)
    if node is not None and factorized(node.fn) is fn and value._written == -1:  # type: ignore[attr-defined]
        density._scored = node
        density._form = None  # one cost, not what it is computed from


_REPLACED: dict[str, Callable[[_Method], _Method]] = {
    "sample": lambda original: _drawing(original, False),
    "rsample": lambda original: _drawing(original, True),
    "log_prob": _scoring,
}


def _classes(root: type[Any] = Distribution) -> Iterator[type[Any]]:
    yield root
    for child in root.__subclasses__():
        yield from _classes(child)


class _Distributions(Replacing):
    """Replaces the methods of all distributions, once for all threads."""

    def begin(self) -> None:
        """Replace the methods of all classes there are, and of those to come."""
        for kind in set(_classes()):
            self._replace_methods(kind)
        hook: Any = classmethod(self._defined)
        self.replace(Distribution, "__init_subclass__", hook)

    def _replace_methods(self, kind: type) -> None:
        for name, replacement in _REPLACED.items():
            original = vars(kind).get(name)
            if callable(original):
                self.replace(kind, name, _cached(replacement, original))

    def _defined(self, kind: Any, /, **options: Any) -> None:
        """Catch a class that is defined while a recording is open."""
        super(Distribution, kind).__init_subclass__(**options)  # type: ignore[misc]
        self._replace_methods(kind)


@functools.lru_cache(maxsize=1024)
def _cached(replacement: Callable[[_Method], _Method], original: _Method) -> _Method:
    return replacement(original)


interceptors.append(_Distributions())
