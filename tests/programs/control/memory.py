"""Decisions on bytes: pickles, files, storages, addresses and memory that others share.

Each way turns a draw, 0 or 1, into bytes; the program branches on whether those hold a one.
"""

import ctypes
import functools
import hashlib
import io
import pickle
import struct
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from programs.control.register import coin, control, rows

Way = Callable[[Tensor], bytes]
_END, _BLOCK = torch.tensor([0, 1]), torch.zeros(1, 1, 1, dtype=torch.float64)
ONE = struct.pack("d", 1.0)
WAYS: dict[str, Way] = {}


def way(function: Way) -> Way:
    """Register a way, and the program that decides on what it gives."""

    @functools.wraps(function)
    def program(theta: Tensor) -> Tensor:
        with warnings.catch_warnings(action="ignore"):  # of the age of some
            data = function(coin(theta[0].expand(1)))
        return theta[1] * (1.3 if ONE in data else 0.1)

    control()(program)
    WAYS[function.__name__] = function
    return function


class Scaled(nn.Module):
    """A module with a buffer."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", zeros())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def zeros() -> Tensor:
    return torch.zeros(1, dtype=torch.float64)


def file() -> Path:
    return Path(tempfile.mkdtemp()) / "file"


def at(address: int) -> bytes:
    return ctypes.string_at(address, 8)


def state(values: Any) -> bytes:
    """Return what `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(values, buffer)
    return buffer.getvalue()


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


rows(
    way,
    {
        "a_pickle_in_bytes": lambda z: pickle.dumps(z),
        "a_pickle_of_a_container": lambda z: pickle.dumps({"a": [z, (z,)]}, protocol=5),
        "a_hash_by_torch": lambda z: (
            ONE if torch.hash_tensor(z).item() == torch.hash_tensor(z * 0 + 1).item() else b""
        ),
        "a_file_of_safetensors": lambda z: safetensors.torch.save({"z": z.clone()}),
        "bytes_of_an_array": lambda z: z.numpy().tobytes(),
        "bytes_of_a_storage": lambda z: bytes(z.untyped_storage().tolist()),
        "an_address": lambda z: at(z.data_ptr()),
        "an_array_through_dlpack": lambda z: np.from_dlpack(z).tobytes(),
        "a_capsule_that_was_there_before": lambda z: _through(torch._C._to_dlpack, z),
        "a_versioned_capsule_that_was_there_before": lambda z: _through(
            torch._C._to_dlpack_versioned, z
        ),
        "the_size_of_a_sparse_tensor": lambda z: _size(
            torch.sparse_coo_tensor(z.long()[None], zeros())
        ),
        "the_size_of_a_tensor_of_rows": lambda z: _size(
            torch.sparse_csr_tensor(_END, z.long(), zeros())
        ),
        "the_size_of_a_tensor_of_columns": lambda z: _size(
            torch.sparse_csc_tensor(_END, z.long(), zeros())
        ),
        "the_size_of_a_tensor_of_blocks_in_rows": lambda z: _size(
            torch.sparse_bsr_tensor(_END, z.long(), _BLOCK)
        ),
        "the_size_of_a_tensor_of_blocks_in_columns": lambda z: _size(
            torch.sparse_bsc_tensor(_END, z.long(), _BLOCK)
        ),
        "the_size_of_a_compressed_tensor": lambda z: _size(
            torch.sparse_compressed_tensor(_END, z.long(), zeros(), layout=torch.sparse_csr)
        ),
    },
)


@way
def a_pickle_of_an_older_view(z: Tensor) -> bytes:
    whole = torch.zeros(2, dtype=torch.float64)
    view = whole[:1]
    whole.add_(z)
    return pickle.dumps(view)


@way
def a_pickle_by_a_pickler_of_ones_own(z: Tensor) -> bytes:
    class Pickler(pickle._Pickler):
        """In Python, as those that hash or cache what they are given."""

    buffer = io.BytesIO()
    Pickler(buffer).dump(z)
    return buffer.getvalue()


@way
def a_reduction(z: Tensor) -> bytes:
    reduce: Any = Tensor.__reduce_ex__  # not annotated in torch
    _, args = reduce(z, 2)
    storage = next(item for item in _flat(args) if hasattr(item, "untyped"))
    return bytes(storage.untyped().tolist())


@way
def a_hash_of_content(z: Tensor) -> bytes:
    digests = [hashlib.sha256(x.numpy().data).digest() for x in (z, torch.ones_like(z))]
    return ONE if digests[0] == digests[1] else b""


@way
def a_file_of_torch(z: Tensor) -> bytes:
    path = file()
    torch.save([z], path)
    return path.read_bytes()


@way
def a_file_of_a_state(z: Tensor) -> bytes:
    module = Scaled()
    module.scale.copy_(z)
    return state(module.state_dict())


@way
def a_file_of_numpy(z: Tensor) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, z)
    return buffer.getvalue()


@way
def a_file_of_a_script(z: Tensor) -> bytes:
    module = torch.jit.script(Scaled())
    module.scale.copy_(z)
    return module.save_to_buffer()  # type: ignore[no-any-return]


@way
def a_saved_script(z: Tensor) -> bytes:
    module = torch.jit.script(Scaled())
    module.scale.copy_(z)
    path = file()
    torch.jit.save(module, str(path))
    return path.read_bytes()


@way
def a_mapped_file(z: Tensor) -> bytes:
    path = file()
    path.write_bytes(bytes(8))
    torch.from_file(str(path), shared=True, size=1, dtype=torch.float64).copy_(z)
    return path.read_bytes()


def written_later(
    z: Tensor, of: Callable[[Tensor], Any] = Tensor.untyped_storage
) -> tuple[Any, Tensor]:
    """Return a storage that was asked for before a draw was written there, and its buffer."""
    buffer = zeros()
    storage = of(buffer)
    buffer.copy_(z)
    return storage, buffer


@way
def bytes_of_a_storage_that_was_there_before(z: Tensor) -> bytes:
    storage, _buffer = written_later(z)
    return bytes(storage.tolist())


@way
def a_typed_storage_that_was_there_before(z: Tensor) -> bytes:
    storage, _buffer = written_later(z, Tensor.storage)
    return struct.pack("d", storage[0])


@way
def a_pickle_of_a_storage_that_was_there_before(z: Tensor) -> bytes:
    storage, _buffer = written_later(z)
    return state(storage)


@way
def a_copy_of_a_storage_that_was_there_before(z: Tensor) -> bytes:
    storage, _buffer = written_later(z)
    return bytes(storage.clone().tolist())


@way
def a_file_of_a_storage_that_was_there_before(z: Tensor) -> bytes:
    storage, _buffer = written_later(z)
    path = file()
    with path.open("wb") as target:
        storage._write_file(target, True, False, 8)
    return path.read_bytes()


@way
def an_address_of_a_storage_that_was_there_before(z: Tensor) -> bytes:
    storage, _buffer = written_later(z)
    return at(storage.data_ptr())


@way
def bytes_that_share_the_memory(z: Tensor) -> bytes:
    data = bytearray(8)
    torch.frombuffer(data, dtype=torch.float64).copy_(z)
    return bytes(data)


@way
def an_address_to_read_only(z: Tensor) -> bytes:
    return at(z.const_data_ptr())  # type: ignore[attr-defined]


@way
def an_address_of_a_view(z: Tensor) -> bytes:
    whole = torch.zeros(2, dtype=torch.float64)
    view = whole[:1]
    whole.add_(z)
    return at(view.data_ptr())


@way
def an_array_through_dlpack_that_was_there_before(z: Tensor) -> bytes:
    buffer = zeros()
    array = np.from_dlpack(buffer)
    buffer.copy_(z)
    return array.tobytes()


@way
def a_capsule_of_the_module_that_was_there_before(z: Tensor) -> bytes:
    return _through(torch.utils.dlpack.to_dlpack, z)  # type: ignore[attr-defined]


@way
def a_capsule_of_torch_that_was_there_before(z: Tensor) -> bytes:
    return _through(torch.to_dlpack, z)  # type: ignore[attr-defined]


class _Capsule:
    """What numpy takes a capsule from."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **_: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def _through(export: Callable[[Tensor], Any], z: Tensor) -> bytes:
    buffer = zeros()
    array: Any = np.from_dlpack(_Capsule(export(buffer)))
    buffer.copy_(z)
    return array.tobytes()  # type: ignore[no-any-return]


@way
def a_text_of_an_older_view(z: Tensor) -> bytes:
    whole = torch.zeros(2, dtype=torch.float64)
    view = whole[:1]
    whole.add_(z)
    return ONE if "1." in repr(view) else b""


def _size(made: Tensor) -> bytes:
    return ONE if max(made.shape) == 2 else b""
