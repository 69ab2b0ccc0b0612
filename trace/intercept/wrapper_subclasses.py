"""Tensor subclasses: those into which a tracked tensor is wrapped, or which refuse it.

A tensor of another class cannot become one of ours and stay what it is. One of a passive class that
is made of a tracked tensor is followed by its memory; to make one of another class is refused. A
class with its own ``__torch_function__`` may answer where it meets a tracked tensor, as long
as its answer carries every source.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
import torch.masked
import torch.nested
from torch import Tensor
from torch.masked.maskedtensor.core import MaskedTensor

from ancestral.provenance.dispatch.escape import escape
from ancestral.provenance.dispatch.propagate import tracked
from ancestral.provenance.dispatch.subclasses import PASSIVE, is_passive, refuse
from ancestral.provenance.dispatch.torch_function import mark_lost
from ancestral.provenance.rules.registry import ESCAPES
from ancestral.provenance.tensor import storage as watching
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.tensor import provenance, raw
from ancestral.provenance.tensor.torch_internals import NestedTensor, disable_current_modes
from ancestral.trace.context.patch import Replacing, unmet
from ancestral.trace.context.stack import local

_Function = Callable[..., Any]


@functools.cache  # one for all recordings
def _refusing(original: _Function, kind: str) -> _Function:
    @functools.wraps(original)
    def refused(*args: Any, **kwargs: Any) -> Any:
        if local.traces:
            refuse(kind, args, kwargs)
        return original(*args, **kwargs)

    return refused


@functools.lru_cache(maxsize=1024)
def _answering(original: Any) -> Any:
    """Return the ``__torch_function__`` of a class, whose answer must carry every source."""

    def answered(
        cls: type, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        result = original.__get__(None, cls)(func, types, args, given)
        found = list(tracked(args, given)) if local.traces and result is not NotImplemented else []
        if found and not all(_carries(tensor, found) for tensor in tensors_in(result)):
            refuse(cls.__name__, args, given)
        if found and func.__name__.split(".")[0] in ESCAPES:
            escape(found)
        return result

    return classmethod(answered)


def _carries(tensor: Tensor, found: list[Any]) -> bool:
    known = provenance(tensor)
    return known is not None and all(each.members <= known.members for each in found)


@functools.cache  # one for all recordings
def _as_subclass(original: _Function) -> _Function:
    @functools.wraps(original)
    def viewed(self: Tensor, cls: type) -> Any:
        if not local.traces:
            return original(self, cls)
        if cls is not Tensor:
            return _made(cls, lambda: original(self, cls), self)
        with unmet():  # the alias must be nobody's yet, to be plain
            result = original(self, cls)
        mark_lost(result, list(tracked(self)))
        return result

    return viewed


@functools.cache  # one for all recordings
def _making(original: _Function) -> _Function:
    @functools.wraps(original)
    def make(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is Tensor or not local.traces:
            return original(cls, *args, **kwargs)
        return _made(cls, lambda: original(cls, *args, **kwargs), args, kwargs)

    return make


def _made(kind: type, make: Callable[[], Tensor], *given: Any) -> Tensor:
    """Make a tensor of a class, which a tracked tensor is followed into by its memory."""
    found = list(tracked(*given))
    if found and not is_passive(kind):
        refuse(kind.__name__, *given)
    unseen = disable_current_modes if local.audit is not None else nullcontext
    with unmet(), unseen():  # the alias must be nobody's yet, to become of that class
        made = make()
    storage = raw(watching.storage_of, made) if found else None
    for each in found:
        if storage is None:
            refuse(kind.__name__, *given)
        else:
            watching.taint(storage, each, holders=0, is_held=True)
    return made


_NESTED = "nested_tensor as_nested_tensor nested_tensor_from_jagged narrow masked_select"
_FUNCTION = "__torch_function__"


def _classes() -> Iterator[type]:
    """Yield the classes of users that have their own way to meet other tensors."""
    found: list[type] = Tensor.__subclasses__()
    for kind in found:
        found.extend(kind.__subclasses__())
        if _FUNCTION in vars(kind) and not kind.__module__.startswith(("torch.", "ancestral.")):
            yield kind


class TensorSubclasses(Replacing):
    """Replaces the methods of the classes."""

    def begin(self) -> None:
        """Take the places of their constructors, and of their ways to meet other tensors."""
        for name in _NESTED.split():
            self.replace(torch.nested, name, _refusing(vars(torch.nested)[name], "nested tensor"))
        for kind, shown in ((NestedTensor, "nested tensor"), (MaskedTensor, "masked tensor")):
            made = vars(kind)["__new__"].__func__
            self.replace(kind, "__new__", staticmethod(_refusing(made, shown)))
        self._meet(NestedTensor)
        self.replace(Tensor, "__init_subclass__", classmethod(self._defined))
        self.replace(Tensor, "as_subclass", _as_subclass(Tensor.as_subclass))
        for name in ("__new__", "_make_subclass"):
            self.replace(Tensor, name, staticmethod(_making(getattr(Tensor, name))))

    def meet(self) -> None:
        """Take the place of how the classes of users meet other tensors."""
        for kind in _classes():
            self._meet(kind)

    def _meet(self, kind: type) -> None:
        own = vars(kind).get(_FUNCTION)
        if own is not None and own not in PASSIVE:
            self.replace(kind, _FUNCTION, _answering(own))

    def _defined(self, kind: Any, /, **options: Any) -> None:
        """Meet a class that is defined while a recording is open."""
        super(Tensor, kind).__init_subclass__(**options)  # type: ignore[misc]
        self._meet(kind)
