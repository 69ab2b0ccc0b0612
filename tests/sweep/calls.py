"""Calls: one function of torch with its arguments, run again and again on copies of its tensors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Call:
    """A function of torch, called by name, and what it is given."""

    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    is_broadcast: bool = False  # the first operand has fewer elements than the result
    is_finite: bool = False  # infinite arguments may hang it
    is_number: bool = False  # one of its tensors stands in the place of a number

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Return the distinct tensors among the arguments, in order."""
        found: dict[int, Tensor] = {}
        for tensor in leaves((self.args, self.kwargs)):
            found.setdefault(id(tensor), tensor)
        return tuple(found.values())

    @cached_property
    def _changing(self) -> frozenset[int | str]:
        """Return the places of the arguments that are not the same in every run."""
        found: set[int | str] = set()
        for place, argument in (*enumerate(self.args), *self.kwargs.items()):
            mapped(argument, lambda item, at=place: _is_anew(item) and found.add(at))
        return frozenset(found)

    def run(self, given: Sequence[Tensor]) -> "Outcome":
        """Call the function with other tensors than those it was made with, and the same seed."""
        places = {id(tensor): new for tensor, new in zip(self.tensors, given, strict=True)}

        def placed(item: Any) -> Any:
            return places[id(item)] if isinstance(item, Tensor) else _fresh(item)

        args = [mapped(a, placed) if n in self._changing else a for n, a in enumerate(self.args)]
        kwargs = {
            k: mapped(a, placed) if k in self._changing else a for k, a in self.kwargs.items()
        }
        torch.default_generator.manual_seed(0)
        result = self.function(*args, **kwargs)
        if isinstance(result, Iterator):
            result = list(result)
        return Outcome(result, tuple(leaves(result)), tuple(given))


@dataclass(frozen=True)
class Outcome:
    """What a call gave, the tensors in it, and the arguments as the call left them."""

    result: Any
    tensors: tuple[Tensor, ...]
    given: tuple[Tensor, ...]

    def visible(self, written: Sequence[int]) -> tuple[Tensor, ...]:
        """Return every tensor that the call made: its results, and the arguments it wrote into."""
        return (*self.tensors, *(self.given[index] for index in written))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return arguments with everything that is no container changed, at any depth."""
    if type(value) in (list, tuple):
        return type(value)(mapped(item, change) for item in value)
    if isinstance(value, dict):
        return {name: mapped(item, change) for name, item in value.items()}
    if isinstance(value, slice):
        parts = (value.start, value.stop, value.step)
        return slice(*(mapped(item, change) for item in parts))
    return change(value)


def leaves(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments or in a result, at any depth."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from leaves(item)
    elif isinstance(value, dict):
        yield from leaves(list(value.values()))
    elif isinstance(value, slice):
        yield from leaves([value.start, value.stop, value.step])


def copied(tensor: Tensor) -> Tensor:
    """Return a copy that shares nothing."""
    return tensor.detach().clone()


def _is_anew(item: Any) -> bool:
    """Return whether each run has another such argument: a tensor, or a generator."""
    return isinstance(item, (Tensor, torch.Generator))


def _fresh(item: Any) -> Any:
    """Return a generator in its first state: two runs draw the same from it."""
    return torch.Generator().manual_seed(0) if type(item) is torch.Generator else item
