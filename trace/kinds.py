"""Kinds of tensors: classes of their own, into which a tracked tensor goes or is refused.

A tensor of another class has a ``__torch_function__`` of its own, or none, and its class cannot
become ours. What such a class computes is not followed, so that nested tensors, masked tensors and
views as another subclass are refused where a tracked tensor would enter them.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.masked
import torch.nested
from torch import Tensor
from torch.masked.maskedtensor.core import MaskedTensor
from torch.nested._internal.nested_tensor import NestedTensor

from ancestral.provenance.inference import tracked
from ancestral.provenance.propagation import mark_lost
from ancestral.trace.interceptors import Replacing, interceptors
from ancestral.trace.keys import KEY
from ancestral.trace.naming import Location, place
from ancestral.trace.stack import local

_Function = Callable[..., Any]


class UnsupportedTensorError(NotImplementedError):
    """A tracked tensor would enter a kind of tensor that cannot carry provenance."""

    def __init__(self, kind: str, names: frozenset[str], location: Location) -> None:
        """Name the kind, the sources and the line."""
        listed = ", ".join(repr(name) for name in sorted(names))
        super().__init__(
            f"a {kind} at {location} would hold or meet a value that depends on {listed}, and a "
            f"{kind} cannot carry provenance; use padded tensors and masks of your own, or "
            "cut the dependency with an.untrack where no gradient needs it"
        )


def _refuse(kind: str, *given: Any) -> None:
    names = frozenset(source.name for found in tracked(*given) for source in found.sources)
    if names:
        raise UnsupportedTensorError(kind, names, place().location)


@functools.cache  # every recording stands at the same doors
def _refusing(original: _Function, kind: str) -> _Function:
    @functools.wraps(original)
    def refused(*args: Any, **kwargs: Any) -> Any:
        if local.traces:
            _refuse(kind, args, kwargs)
        return original(*args, **kwargs)

    return refused


@functools.cache  # every recording stands at the same doors
def _meeting(original: Any, kind: str) -> Any:
    """Return the ``__torch_function__`` of a class, which refuses to meet a tracked tensor."""

    def met(
        cls: type, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if local.traces:
            _refuse(kind, args, kwargs or {})
        return original.__get__(None, cls)(func, types, args, kwargs or {})

    return classmethod(met)


@functools.cache  # every recording stands at the same doors
def _as_subclass(original: _Function) -> _Function:
    @functools.wraps(original)
    def viewed(self: Tensor, cls: type) -> Any:
        found = list(tracked(self)) if local.traces else []
        if found and cls is not Tensor:
            _refuse(cls.__name__, self)
        # The alias must be nobody's yet, to become of that class.
        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(KEY)):
            result = original(self, cls)
        mark_lost(result, found)
        return result

    return viewed


_NESTED = "nested_tensor as_nested_tensor nested_tensor_from_jagged narrow masked_select"


class _Kinds(Replacing):
    """Stands at the doors of the classes."""

    def begin(self) -> None:
        """Take the places of their constructors, and of their ways to meet other tensors."""
        for name in _NESTED.split():
            self.replace(torch.nested, name, _refusing(vars(torch.nested)[name], "nested tensor"))
        for kind, shown in ((NestedTensor, "nested tensor"), (MaskedTensor, "masked tensor")):
            made = vars(kind)["__new__"].__func__
            self.replace(kind, "__new__", staticmethod(_refusing(made, shown)))
            name = "__torch_function__"
            self.replace(kind, name, _meeting(vars(kind)[name], shown))
        self.replace(Tensor, "as_subclass", _as_subclass(Tensor.as_subclass))


interceptors.append(_Kinds())
