"""Arguments of functions of torch: the tensors among them, and one by its place or its name."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

Function = Callable[..., Any]
Args = Sequence[Any]
Kwargs = Mapping[str, Any]

NOWHERE = sys.maxsize
"""The position of an argument that is given by its name alone, or not at all."""


_ATOMS = frozenset({int, float, bool, str, type(None), type(Ellipsis)})


def tensors_in(*nested: Any) -> list[Tensor]:
    """Return the tensors in arguments, at any depth of sequences and mappings."""
    found: list[Tensor] = []
    for item in nested:
        if item.__class__ in _ATOMS:
            continue
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (tuple, list, set, frozenset)):
            found += tensors_in(*item) if item else ()
        elif isinstance(item, Mapping):
            found += tensors_in(*item.values()) if item else ()
        elif isinstance(item, slice):
            found += tensors_in(item.start, item.stop, item.step)
    return found


def argument(args: Args, kwargs: Kwargs, position: int, *names: str, default: Any = None) -> Any:
    """Return an argument by its position or by one of its names."""
    for name in names:
        if name in kwargs:
            return kwargs[name]
    return args[position] if len(args) > position else default


def positional(args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    """Return the arguments with the operand at its place, even if it was given as ``input=``."""
    if args or "input" not in kwargs:
        return args, kwargs
    return (kwargs["input"],), {name: kwargs[name] for name in kwargs if name != "input"}


def is_argument(result: Tensor, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Return whether a result is one of the arguments, which some functions give back."""
    for item in (*args, *kwargs.values()):
        if item is result:
            return True
        if item.__class__ in _CONTAINERS and any(x is result for x in tensors_in(item)):
            return True
    return False


_CONTAINERS = frozenset({tuple, list, dict})
