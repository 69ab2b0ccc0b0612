"""Plain data: dictionaries, lists, texts, numbers and tensors, read back without trust.

It is dictionaries with keys of text, lists, texts, numbers, None and tensors, nothing else: no code
is stored, and none is run when it is read.
"""

import hashlib
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.arguments import kind_of

T = TypeVar("T")
Plain = Any
"""A dictionary, a list, a text, a number, None or a tensor."""


class StoredTraceError(ValueError):
    """What should be a stored trace is none."""

    def __init__(self, problem: str, file: str = "this") -> None:
        """Say what is wrong, and with which file."""
        super().__init__(f"{file} is no trace that can be read: {problem}")
        self.problem = problem


class NotPlainError(TypeError):
    """An object cannot be stored as plain data."""


def kept(tensor: Tensor) -> Tensor:
    """Return a tensor as it is stored: its numbers alone.

    Raises:
        NotPlainError: if it does not have them side by side in memory.
    """
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        kind = "on the device meta" if tensor.is_meta else f"of layout {tensor.layout}"
        raise NotPlainError(f"a tensor {kind} is no plain data")
    return untrack(tensor).detach().clone(memory_format=torch.contiguous_format)


def plain(value: object, of_tensor: Callable[[Tensor], Tensor] = kept) -> Plain:
    """Return an object as plain data.

    A text or a number of another class, of numpy say, becomes one of Python: a file with the
    class in it could not be read.

    Raises:
        NotPlainError: if it is, or holds, anything else than what can be stored.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Tensor):
        return of_tensor(value)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str.__str__(key): plain(item, of_tensor) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, of_tensor) for item in value]
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise NotPlainError(f"{kind_of(value)} is no plain data")


def plain_only(values: Mapping[str, Any]) -> dict[str, Plain]:
    """Return those of the values that are plain data."""
    found: dict[str, Plain] = {}
    for key, value in values.items():
        try:
            found[key] = plain(value)
        except (NotPlainError, RecursionError):
            continue  # a function, say, which would be code, or a list that holds itself
    return found


def field(data: object, key: str, kind: type[T]) -> T:
    """Return what a stored dictionary has under a key.

    Raises:
        StoredTraceError: if that is missing, or not of this type.
    """
    if not isinstance(data, dict):
        raise StoredTraceError(f"expected a dictionary with {key!r}, not a {type(data).__name__}")
    if key not in data:
        raise StoredTraceError(f"{key!r} is missing")
    return as_kind(data[key], kind, key)


def as_kind(value: object, kind: type[T], key: str) -> T:
    """Return a value that must be of a type; a truth value is no number.

    Raises:
        StoredTraceError: if it is not.
    """
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise StoredTraceError(f"{key!r} is a {type(value).__name__}; expected a {kind.__name__}")


def items(data: object, key: str, kind: type[T]) -> list[T]:
    """Return the list that a stored dictionary has under a key, of elements of one type.

    Raises:
        StoredTraceError: if it is none.
    """
    return [as_kind(item, kind, key) for item in field(data, key, list)]


def digest(value: Plain) -> str:
    """Return a digest of plain data, by which damage is found."""
    found = hashlib.sha256()
    _digest(value, found)
    return found.hexdigest()


def _digest(value: Plain, into: "hashlib._Hash") -> None:
    into.update(type(value).__name__.encode())
    if isinstance(value, Tensor):
        into.update(f"{value.dtype}{list(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        into.update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        into.update(f"{len(value)}".encode())
        for key, item in value.items():
            _digest(key, into)
            _digest(item, into)
    elif isinstance(value, (list, tuple)):
        into.update(f"{len(value)}".encode())
        for item in value:
            _digest(item, into)
    else:
        text = repr(value).encode()
        into.update(f"{len(text)}:".encode())
        into.update(text)
