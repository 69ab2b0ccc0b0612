"""Copied calls: functions that hold a state, called twice with the same random numbers."""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor


def copied(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with copies of what it holds: its object, closure, defaults and globals.

    Raises:
        TypeError: if something cannot be copied.
    """
    memo: dict[int, Any] = {}
    try:
        if isinstance(function, FunctionType):
            return _copied(function, memo)
        return copy.deepcopy(function, memo)
    except Exception as error:  # of the user's objects, whatever they raise
        raise TypeError(f"{type(error).__name__}: {error}") from error


def _copied(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    cells = tuple(CellType(_copy(cell.cell_contents, memo)) for cell in function.__closure__ or ())
    used = set(_names(function.__code__)) & function.__globals__.keys()
    space = {**function.__globals__}
    space.update({name: _copy(space[name], memo) for name in used})
    twin = FunctionType(function.__code__, space, function.__name__, None, cells)
    twin.__defaults__ = copy.deepcopy(function.__defaults__, memo)
    twin.__kwdefaults__ = copy.deepcopy(function.__kwdefaults__, memo)
    return twin


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of what holds a state; modules and classes hold none."""
    if isinstance(value, FunctionType):
        if id(value) not in memo:
            memo[id(value)] = value  # for one that calls itself
            memo[id(value)] = _copied(value, memo)
        return memo[id(value)]
    return value if isinstance(value, ModuleType | type) else copy.deepcopy(value, memo)


def _names(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)


def perturbed(tensor: Tensor, dim: int, at: int) -> Tensor:
    """Return a tensor with another element along a dimension: that of another index, if it differs.

    What is 0 or 1 becomes the other; other integers, which may be numbers of classes, move to 0.
    """
    rows = tensor.movedim(dim, 0)
    own = rows[at].clone()
    other = next((row for row in rows if not torch.equal(row, own)), None)
    if other is None:
        is_bit = bool(((own == 0) | (own == 1)).all())
        if own.dtype is torch.bool:
            other = ~own
        elif is_bit:
            other = 1 - own
        else:
            other = own * 1.1 + 0.1 if own.dtype.is_floating_point else own - own.sign()
    made = tensor.clone()
    made.movedim(dim, 0)[at] = other
    return made


@contextmanager
def same_randomness() -> Iterator[Callable[[], None]]:
    """Hand out what sets all generators back, and leave them as they were."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()

    def again() -> None:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])

    try:
        yield again
    finally:
        again()
