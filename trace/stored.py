"""Stored data: what a trace is written as, and how it is read back without trust.

It is dictionaries with keys of text, lists, texts, numbers, None and tensors, nothing else: no code
is stored, and none is run when it is read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ancestral.provenance.tensor import untrack

T = TypeVar("T")
Plain = Any
"""A dictionary, a list, a text, a number, None or a tensor."""


class StoredTraceError(ValueError):
    """What should be a stored trace is none."""

    def __init__(self, problem: str) -> None:
        """Say what is wrong."""
        super().__init__(f"this is no trace that can be read: {problem}")


class NotPlainError(TypeError):
    """An object cannot be stored as plain data."""


def plain(value: object) -> Plain:
    """Return an object as plain data.

    Raises:
        NotPlainError: if it is, or holds, anything else than what can be stored.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Tensor):
        return kept(value)
    if isinstance(value, Mapping) and all(type(key) is str for key in value):
        return {key: plain(item) for key, item in value.items()}
    if type(value) in (list, tuple, torch.Size):
        assert isinstance(value, Sequence)
        return [plain(item) for item in value]
    raise NotPlainError(f"a {type(value).__name__} is no plain data")


def kept(tensor: Tensor) -> Tensor:
    """Return a tensor as it is stored: its numbers alone."""
    return untrack(tensor).detach().clone(memory_format=torch.contiguous_format)


def plain_only(values: Mapping[str, Any]) -> dict[str, Plain]:
    """Return those of the values that are plain data."""
    found: dict[str, Plain] = {}
    for key, value in values.items():
        try:
            found[key] = plain(value)
        except NotPlainError:
            continue  # a function, say: it would be code
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
