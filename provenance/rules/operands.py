"""Operands: the arguments that a rule of alignment takes, and the pairs that it returns.

A rule answers with one pair for each operand that it knows: the tensor, and for every dimension of
the result the dimension of the operand whose index it shares (`LOST` where there is none), or None
where no value of the operand reaches the result.

A dimension that changes its size is lost by itself (`Provenance.remap`), so that a rule need not
care for broadcasting ones or for slices.
"""

import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Dims, Shape, Step

Function = Callable[..., Any]
Args = Sequence[Any]
Kwargs = Mapping[str, Any]
Pair = tuple[Tensor, Step | None]
Rule = Callable[[Shape, Args, Kwargs], Iterable[Pair] | None]

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


def rank_of(tensor: Tensor) -> int:
    """Return the number of dimensions."""
    return len(tensor.shape)


def identity(rank: int, *lost: int) -> Dims:
    """Return the alignment of a tensor with itself, without the dimensions `lost`."""
    gone = {d % rank for d in lost} if rank else set[int]()
    return tuple(LOST if d in gone else d for d in range(rank))


def lost(shape: Shape, *operands: Any) -> list[Pair]:
    """Return the pairs of operands that reach the result we know not where."""
    return [(t, (LOST,) * len(shape)) for t in tensors_in(operands)]


def unnamed(pairs: Iterable[Pair], args: Args, kwargs: Kwargs) -> list[Tensor]:
    """Return the operands that a rule does not name as often as they are given."""
    found = tensors_in(args, kwargs)
    for named, _ in pairs:
        for place, tensor in enumerate(found):
            if tensor is named:
                del found[place]
                break
    return found


@dataclass(frozen=True)
class Signature:
    """The rule of an op that works on the last dimensions of its operands.

    Without an arrow, the result keeps the batch alone, whatever comes after it.
    """

    text: str

    @property
    def __name__(self) -> str:
        """The text: what tells one signature from another."""
        return self.text

    def __call__(self, shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
        """Return the batch of each operand, and the indices that are kept."""
        left, _, right = self.text.partition("->")
        found: list[tuple[Tensor, str]] = []
        for position, (name, letters) in enumerate(re.findall(r"(\w+)\((\w*)\)", left)):
            operand = argument(args, kwargs, position, name)
            if isinstance(operand, Tensor):
                found.append((operand, letters))
        batch = max((rank_of(t) - len(letters) for t, letters in found), default=0)
        kept = right.strip(" ()") if right else "." * (len(shape) - batch)
        is_short = any(rank_of(t) < len(letters) for t, letters in found)
        if is_short or len(shape) != batch + len(kept):
            return None
        return [(t, _dims(rank_of(t) - len(s), batch, s, kept)) for t, s in found]


def _dims(held: int, batch: int, letters: str, kept: str) -> tuple[int, ...]:
    """Return the alignment of an operand that holds some dimensions of the batch, at its right."""
    core = (
        held + letters.index(letter) if letter.isupper() and letter in letters else LOST
        for letter in kept
    )
    return (*(LOST,) * (batch - held), *range(held), *core)
