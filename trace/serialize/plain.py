"""Plain data: dictionaries, lists, tuples, texts, numbers, None and tensors, nothing else.

No code is stored, and none is run when it is read.
"""

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import kind_of

T = TypeVar("T")
Plain = Any
"""A dictionary, a list, a tuple, a text, a number, None or a tensor."""


class StoredTraceError(ValueError):
    """What should be a stored trace is none."""

    def __init__(self, problem: str, file: str = "this") -> None:
        """Say what is wrong, and with which file."""
        super().__init__(f"{file} is no trace that can be read: {problem}")
        self.problem = problem


class NotPlainError(TypeError):
    """An object cannot be stored as plain data."""


def plain(value: object) -> Plain:
    """Return an object as plain data.

    A text or a number of another class, of numpy say, becomes one of Python: a file with the
    class in it could not be read.

    Raises:
        NotPlainError: if it is, or holds, anything else than what can be stored.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized:
            kind = "on the device meta" if value.is_meta else f"of layout {value.layout}"
            raise NotPlainError(f"a tensor {kind} is no plain data")
        return untrack(value).detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {str.__str__(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return each(plain, value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise NotPlainError(f"{kind_of(value)} is no plain data")


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
        except (NotPlainError, RecursionError):
            continue  # a function, say, which would be code, or a list that holds itself
    return found


def as_kind(value: object, kind: type[T], key: str) -> T:
    """Return a value that must be of a type; a truth value is no number.

    Raises:
        StoredTraceError: if it is not.
    """
    if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise StoredTraceError(f"{key!r} is a {type(value).__name__}; expected a {kind.__name__}")
