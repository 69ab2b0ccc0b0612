"""Reachable tensors: those that an object holds, by its attributes, its items or its closure."""

import functools
from collections.abc import Iterator
from types import CodeType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

OPAQUE = (str, bytes, int, float, bool, type(None), torch.dtype, torch.device, ModuleType, type)
_CACHE = "_cached_x_y"  # of a transform: what it was last asked for is none of its parameters


def reachable(value: Any) -> Iterator[Tensor]:
    """Yield the tensors that can be reached from an object, the globals of a function included."""
    seen: set[int] = set()
    yield from _within(value, seen)
    code = getattr(value, "__code__", None)
    known = getattr(value, "__globals__", {})
    for name in _names(code):
        if name in known:
            yield from _within(known[name], seen)


def _names(code: Any) -> Iterator[str]:
    """Yield the names that a code and those within it may look up."""
    if isinstance(code, CodeType):
        yield from code.co_names
        for constant in code.co_consts:
            yield from _names(constant)


def _within(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif not isinstance(value, OPAQUE) and id(value) not in seen:
        seen.add(id(value))
        for item in contents(value):
            yield from _within(item, seen)


def contents(value: Any) -> Iterator[Any]:
    """Yield what an object holds."""
    if isinstance(value, nn.Module):
        yield from value.parameters()
        yield from value.buffers()
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    else:
        for cell in getattr(value, "__closure__", None) or ():
            yield cell.cell_contents
        yield getattr(value, "__self__", None)
        held: dict[str, Any] = getattr(value, "__dict__", {})
        yield from (item for name, item in held.items() if name != _CACHE)
        for kind in type(value).__mro__:
            slots = vars(kind).get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                yield getattr(value, name, None)
