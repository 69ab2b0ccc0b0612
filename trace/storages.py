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
from ancestral.provenance.torch_internals import TO_DLPACK, ScriptModule, is_torch_function_enabled
from ancestral.trace.interceptors import Replacing, interceptors
from ancestral.trace.opaque import of_script
from ancestral.trace.stack import local

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


@functools.cache
def _replacements() -> tuple[tuple[Any, str, _Function], ...]:
    """Return what gives the values of storages and of scripted modules away, as it is met."""
    storage: Any = torch.UntypedStorage
    scripted: Any = ScriptModule
    capsules = ((torch, "to_dlpack"), (torch.utils.dlpack, "to_dlpack"))
    return (
        # Its elements are numbers, which are met in the dispatcher; to save it takes its address.
        *(
            (storage, n, _reading(getattr(storage, n)))
            for n in "_write_file clone data_ptr".split()
        ),
        *((owner, n, _sharing(getattr(owner, n))) for owner, n in (*capsules, *TO_DLPACK)),
        *((scripted, n, _saving(getattr(scripted, n))) for n in ("save", "save_to_buffer")),
    )


class _Storages(Replacing):
    """Meets the reads."""

    def begin(self) -> None:
        """Take the places of what reads."""
        for owner, name, replacement in _replacements():
            self.replace(owner, name, replacement)


interceptors.append(_Storages())
