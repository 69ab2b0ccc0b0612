"""Tensor subclasses: those into which a tracked tensor is wrapped, or which refuse it.

A tensor of another class cannot become one of ours and stay what it is. One of a passive class that
is made of a tracked tensor is followed by its memory; to make one of another class is refused. A
class with its own ``__torch_function__`` may answer where it meets a tracked tensor, as long
as its answer carries every source.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.masked
import torch.nested
from torch import Tensor
from torch.masked.maskedtensor.core import MaskedTensor

from ancestral.provenance.dispatch.escape import escape
from ancestral.provenance.dispatch.propagate import mark_lost, tracked
from ancestral.provenance.dispatch.subclasses import PASSIVE, is_passive, refuse
from ancestral.provenance.rules.registry import ESCAPES
from ancestral.provenance.tensor import storage as watching
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.tensor import provenance, raw
from ancestral.provenance.tensor.torch_internals import NestedTensor, disable_current_modes
from ancestral.trace.context.patch import Descendants, Group, Patch
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import Interceptor, switch, unmet

_Function = Callable[..., Any]


def _refusing(original: _Function, kind: str) -> _Function:
    @functools.wraps(original)
    def refused(*args: Any, **kwargs: Any) -> Any:
        if local.traces:
            refuse(kind, args, kwargs)
        return original(*args, **kwargs)

    return refused


def _refusing_new(original: _Function, kind: str) -> Any:
    return staticmethod(_refusing(original, kind))


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


def _making(original: _Function) -> Any:
    @functools.wraps(original)
    def make(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls is Tensor or not local.traces:
            return original(cls, *args, **kwargs)
        return _made(cls, lambda: original(cls, *args, **kwargs), args, kwargs)

    return staticmethod(make)


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


class TensorSubclasses(Interceptor):
    """Meets what makes tensors of other classes, and their ways to meet other tensors."""

    def __init__(self) -> None:
        self._kinds = Descendants(Tensor, _is_of_torch, (_FUNCTION,))
        self.kinds = (self._kinds,)

    def patches(self) -> Iterator[Patch]:
        """Return the constructors, and what tells of classes to come."""
        for name in _NESTED.split():
            yield Patch(torch.nested, name, partial(_refusing, kind="nested tensor"))
        for kind, shown in ((NestedTensor, "nested tensor"), (MaskedTensor, "masked tensor")):
            yield Patch(kind, "__new__", partial(_refusing_new, kind=shown))
        yield from _meeting(NestedTensor)
        yield Patch(Tensor, "__init_subclass__", lambda _: classmethod(self._defined))
        yield Patch(Tensor, "as_subclass", _as_subclass)
        for name in ("__new__", "_make_subclass"):
            yield Patch(Tensor, name, _making)

    def found(self) -> list[Patch]:
        """Return how the classes of users meet other tensors."""
        return [patch for kind in self._kinds.others() for patch in _meeting(kind)]

    def _defined(self, kind: Any, /, **options: Any) -> None:
        """Meet a class that is defined while a recording is open."""
        super(Tensor, kind).__init_subclass__(**options)  # type: ignore[misc]
        switch.replace(Group(_meeting(kind)))


def _meeting(kind: type) -> Iterator[Patch]:
    """Yield how a class meets other tensors, if it says so itself."""
    own = vars(kind).get(_FUNCTION)
    if own is not None and own not in PASSIVE:
        yield Patch(kind, _FUNCTION, _answering, is_raw=True)


def _is_of_torch(kind: type) -> bool:
    return kind.__module__.startswith(("torch.", "ancestral."))
