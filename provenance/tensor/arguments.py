"""Arguments of functions of torch: the tensors among them, and one by its place or its name."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

Function = Callable[..., Any]
Args = Sequence[Any]
Kwargs = Mapping[str, Any]

NOWHERE = sys.maxsize
"""The position of an argument that is given by its name alone, or not at all."""


def tensors_in(*nested: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments, at any depth of sequences and mappings."""
    for item in nested:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, (tuple, list, set, frozenset)):
            yield from tensors_in(*item)
        elif isinstance(item, Mapping):
            yield from tensors_in(*item.values())
        elif isinstance(item, slice):
            yield from tensors_in(item.start, item.stop, item.step)


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
