"""Plain data: dictionaries, lists, tuples, texts, numbers, None and tensors, nothing else.

No code is stored, and none is run when it is read.
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import raw, untrack
from ancestral.trace.context.argument_checks import kind_of

T = TypeVar("T")
Plain = Any
"""A dictionary, a list, a tuple, a text, a number, None or a tensor."""

_BITS = 2000  # torch reads no more than 255 bytes of a whole number


class StoredTraceError(ValueError):
    """What should be a stored trace is none."""

    problem = ""


def unreadable(problem: str, file: str = "this") -> StoredTraceError:
    """Return the error that a file is no stored trace, and why."""
    error = StoredTraceError(f"{file} is no trace that can be read: {problem}")
    error.problem = problem
    return error


class NotPlainError(TypeError):
    """An object cannot be stored as plain data."""


def plain(value: object) -> Plain:
    """Return an object as plain data.

    A text or a number of another class, of numpy say, becomes one of Python: a file with the
    class in it could not be read.

    Raises:
        NotPlainError: if it is, or holds, anything else than what can be stored.
    """
    if value is None or type(value) in (str, bool, float):
        return value
    if isinstance(value, Tensor):
        return _tensor(untrack(value))
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str.__str__(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return each(plain, value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        if int(value).bit_length() > _BITS:
            raise NotPlainError(f"a number of more than {_BITS} bits is no plain data")
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise NotPlainError(f"{kind_of(value)} is no plain data")


def _tensor(tensor: Tensor) -> Tensor:
    """Return a copy of a tensor that is of no other class, for a file with that could not be read.

    Raises:
        NotPlainError: if it has not all its numbers side by side.
    """
    # What computes for itself may keep its numbers anywhere.
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        raise NotPlainError(f"{kind_of(tensor)} is no plain data")
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        layout = "quantized" if tensor.is_quantized else str(tensor.layout)
        kind = "on the device meta" if tensor.is_meta else f"of layout {layout}"
        raise NotPlainError(f"a tensor {kind} is no plain data")

    def copied() -> Tensor:
        return tensor.detach().clone(memory_format=torch.contiguous_format).as_subclass(Tensor)

    found: Tensor = raw(copied)
    return found


def each(function: Callable[[Any], Any], items: Sequence[Any]) -> Sequence[Any]:
    """Return what a function gives for each item of a list, a tuple or a size, in another."""
    kind = next(kind for kind in (list, torch.Size, tuple) if isinstance(items, kind))
    return kind([function(item) for item in items])


def plain_only(values: Mapping[str, Any]) -> dict[str, Plain]:
    """Return those of the values that are plain data."""
    found: dict[str, Plain] = {}
    for key, value in values.items():
        try:
            found |= plain({key: value})
        except (NotPlainError, OverflowError, RecursionError):
            continue  # a function, say, which would be code, or a list that holds itself
    return found


def as_kind(value: object, kind: type[T], key: str) -> T:
    """Return a value that must be of a type; a truth value is no number.

    Raises:
        StoredTraceError: if it is not.
    """
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise unreadable(f"{key!r} is a {type(value).__name__}; expected a {kind.__name__}")
