"""Reads of tensors: as numbers, by constructors, by attributes, and through their storage.

Torch turns it into a number in C++ before anybody is asked, as a factor or a size: an escape
that no op shows. It is met in the dispatcher, where all numbers that leave a tensor come by. Those
that an op reads which is followed anyway decide a shape at most: the op looks at them afterwards.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor, nn

from ancestral.provenance.dispatch import implicit_reads
from ancestral.provenance.dispatch.escape import escape
from ancestral.provenance.dispatch.inplace import note_chosen, run_write
from ancestral.provenance.dispatch.propagate import tracked
from ancestral.provenance.tensor import storage as watching
from ancestral.provenance.tensor.memory_grid import base_of
from ancestral.provenance.tensor.tensor import (
    NO_KEYWORDS,
    TYPES,
    attach,
    provenance,
    raw,
)
from ancestral.provenance.tensor.torch_internals import (
    DATA_ATTRIBUTES,
    TO_DLPACK,
    ScriptModule,
    is_torch_function_enabled,
)
from ancestral.trace.context.patch import Patch
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import Interceptor, unmet
from ancestral.trace.intercept.opaque import of_script
from ancestral.trace.intercept.straight_through import cut_off

_is_tracking: Callable[[], bool] = is_torch_function_enabled
_op = torch.ops.aten._local_scalar_dense.default


def _number(tensor: Any) -> Any:
    if not isinstance(tensor, Tensor):
        return tensor  # the interpreter of scripts hands over numbers as they are
    with unmet():
        value = raw(_op, tensor)
    if local.around:
        implicit_reads.local.is_decided = True
        return value
    found = provenance(tensor) if local.traces else None
    if found is not None:
        if _is_tracking():
            escape([found])
        else:
            implicit_reads.note(found)  # an op that is followed, whose results carry the source
    return value


_SHAPED = tuple(
    getattr(getattr(torch.ops.aten, name), overload)
    for name, overload in (
        ("nonzero", "default"),
        ("masked_select", "default"),
        ("_unique2", "default"),
        ("unique_dim", "default"),
        ("unique_consecutive", "default"),
        ("bincount", "default"),
        ("repeat_interleave", "Tensor"),
    )
)
"""The ops whose results have a shape that values decide."""


def _shaping(op: Any) -> Callable[..., Any]:
    def shape(*args: Any, **kwargs: Any) -> Any:
        implicit_reads.local.is_decided = True
        with unmet():
            return raw(op, *args, **kwargs)

    return shape


_alias_op = torch.ops.aten.alias.default


def _alias(tensor: Tensor) -> Tensor:
    # Within an op that is followed tracking is off: its result is marked as a whole.
    is_followed = is_torch_function_enabled()
    with unmet():
        made: Tensor = raw(_alias_op, tensor) if is_followed else _alias_op(tensor)
    if not is_followed or not local.traces:
        return made
    found = provenance(tensor)
    if found is not None:
        attach(made, found)
        note_chosen(_alias_op, made, (tensor,), NO_KEYWORDS)
    return made


KERNELS = ((_op, _number), (_alias_op, _alias), *((op, _shaping(op)) for op in _SHAPED))
"""The ops behind numbers, constructors, and shapes that values decide, each with its kernel."""


class _Attribute:
    """An attribute of torch's tensors whose setter follows what is written."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __get__(self, tensor: Tensor | None, kind: type | None = None) -> Any:
        return self._original if tensor is None else self._original.__get__(tensor)

    def __set__(self, tensor: Tensor, value: Any) -> None:
        if provenance(value) is None and provenance(tensor) is None:
            self._original.__set__(tensor, value)
            if type(tensor) in _PLAIN and tensor.requires_grad:
                torch.autograd.graph.increment_version(tensor)
        else:
            setter = self._original.__set__
            run_write(setter, TYPES, (tensor, value), NO_KEYWORDS, [tensor])


_PLAIN = (Tensor, nn.Parameter)


class _Data(_Attribute):
    """``.data``, whose writes torch counts."""

    def __get__(self, tensor: Tensor | None, kind: type | None = None) -> Any:
        if tensor is None:
            return self._original
        is_counted = type(tensor) in _PLAIN and tensor.requires_grad
        result = tensor.detach() if is_counted else super().__get__(tensor, kind)
        cut_off(tensor, result)
        return result


class Attributes(Interceptor):
    """Meets the setters that change the values of a tensor."""

    def patches(self) -> Iterator[Patch]:
        """Return the attributes."""
        for name in DATA_ATTRIBUTES:
            kind = _Data if name == "data" else _Attribute
            yield Patch(Tensor, name, kind, is_raw=True)


_Function = Callable[..., Any]


def _is_by_user() -> bool:
    """Return whether a recording is open, and no op that is followed anyway reads the memory."""
    return bool(local.traces) and is_torch_function_enabled()


def _reading(original: _Function) -> _Function:
    @functools.wraps(original)
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        found = watching.tainted(self) if _is_by_user() else None
        if found is not None:
            escape([found])
        return result

    return read


def _sharing(original: _Function) -> _Function:
    @functools.wraps(original)
    def shared(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if _is_by_user():
            escape(tracked(tensor))
            raw(_share, tensor)
        return original(tensor, *args, **kwargs)

    return shared


def _share(tensor: Tensor) -> None:
    """Say of the memory of a tensor that another library reads it as well."""
    storage = watching.storage_of(tensor)
    if storage is not None and storage.device.type == "cpu":
        torch.empty(0, dtype=torch.uint8).set_(storage).numpy()  # it cannot be resized from now on


def _saving(original: _Function) -> _Function:
    """Return what writes a scripted module into bytes, buffers included."""

    @functools.wraps(original)
    def saved(self: Any, *args: Any, **kwargs: Any) -> Any:
        if local.traces:
            escape(tracked(list(of_script(self))))
        return original(self, *args, **kwargs)

    return saved


def _laying(original: _Function) -> _Function:
    """Return what lays a tensor over other memory: torch asks no class of what it is given."""

    @functools.wraps(original)
    def lay(*args: Any, **kwargs: Any) -> Any:
        if not local.traces or not tracked(args, kwargs):
            return original(*args, **kwargs)
        return run_write(original, TYPES, args, kwargs, [args[0]])

    return lay


def _reaching(original: _Function) -> _Function:
    """Return what reaches the memory beyond a view that depends on nothing: its base may."""

    @functools.wraps(original)
    def reach(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        operand: Any = args[0] if args else kwargs.get("input")
        base = base_of(operand) if local.traces and type(operand) in _PLAIN else None
        found = None if base is None else provenance(base)
        if found is None or found.universe.state == "settled" or not isinstance(result, Tensor):
            return result
        return attach(result, found.lost(tuple(raw(Tensor.size, result))))

    return reach


class Storages(Interceptor):
    """Meets what gives values away past the tensors that hold them."""

    def patches(self) -> Iterator[Patch]:
        """Return what reads the memory, shares it, reaches beyond a view, or saves it."""
        # Its elements are numbers, which are met in the dispatcher; to save it takes its address.
        for name in ("_write_file", "clone", "data_ptr"):
            yield Patch(torch.UntypedStorage, name, _reading)
        for module in (torch, torch.utils.dlpack):
            yield Patch(module, "to_dlpack", _sharing)
        for place in TO_DLPACK:
            yield Patch(*place, _sharing)
        for owner in (torch, Tensor):
            for name in "as_strided as_strided_ as_strided_scatter resize_ resize_as_".split():
                if hasattr(owner, name):
                    yield Patch(owner, name, _reaching)
        yield Patch(Tensor, "set_", _laying)
        for name in ("save", "save_to_buffer"):
            yield Patch(ScriptModule, name, _saving)
