"""Storages: what Python, or another library, reads of the memory of a tensor past every op.

A storage that Python holds as an object, and an array that shares the memory through DLPack, show
what is written into it later. Reads of the one are met here; the other makes the write an escape,
as an array of numpy does.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.utils.dlpack
from torch import Tensor

from ancestral.provenance import watching
from ancestral.provenance.escapes import escape
from ancestral.provenance.inference import tracked
from ancestral.provenance.tensor import raw
from ancestral.trace.interceptors import Replacing, interceptors
from ancestral.trace.opaque import of_script
from ancestral.trace.stack import local

_Function = Callable[..., Any]


def _is_by_user() -> bool:
    """Return whether a recording is open, and no op that is followed anyway reads the memory."""
    return bool(local.traces) and torch._C._is_torch_function_enabled()


@functools.cache  # every recording replaces the same methods
def _reading(original: _Function) -> _Function:
    @functools.wraps(original)
    def read(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        found = watching.tainted(self) if _is_by_user() else None
        if found is not None:
            escape([found])
        return result

    return read


@functools.cache
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


class _Storages(Replacing):
    """Meets the reads."""

    def begin(self) -> None:
        """Replace the methods of storages and of scripted modules that give their values away."""
        storage: Any = torch.UntypedStorage
        # Its elements are numbers, which are met in the dispatcher; to save it takes its address.
        for name in "_write_file clone data_ptr".split():
            self.replace(storage, name, _reading(getattr(storage, name)))
        for owner in (torch, torch.utils.dlpack):
            self.replace(owner, "to_dlpack", _sharing(owner.to_dlpack))
        for name in ("_to_dlpack", "_to_dlpack_versioned"):
            self.replace(torch._C, name, _sharing(getattr(torch._C, name)))
        scripted: Any = torch._C.ScriptModule
        for name in ("save", "save_to_buffer"):
            self.replace(scripted, name, _saving(getattr(scripted, name)))


interceptors.append(_Storages())
