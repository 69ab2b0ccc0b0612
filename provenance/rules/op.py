"""Ops: one row for what is known of each, and the pairs that its rule of alignment returns.

A rule answers with one pair for each operand that it knows: the tensor, and for every dimension of
the result the dimension of the operand whose index it shares (`LOST` where there is none), or None
where no value of the operand reaches the result.

A dimension that changes its size is lost by itself (`Provenance.remap`), so that a rule need not
care for broadcasting ones or for slices.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Dims, Shape, Step
from ancestral.provenance.linear.build import Builder
from ancestral.provenance.tensor.arguments import Args, Kwargs, argument, tensors_in

Pair = tuple[Tensor, Step | None]
Rule = Callable[[Shape, Args, Kwargs], Iterable[Pair] | None]
Condition = Callable[[Args, Kwargs], bool]
Place = tuple[int, str]


class Written(NamedTuple):
    """Where the arguments stand that an op writes into, and what says whether it does."""

    places: tuple[Place, ...]
    condition: tuple[int, str, bool] | None = None  # place, name and default


FIRST = Written(((0, "self"),))
"""Of an op that writes into its first operand though its name does not end with an underscore."""


@dataclass(frozen=True)
class Op:
    """All that is known of an op, or of some that are alike; what is not said holds of none.

    `names` are looked up in torch, Tensor, torch.nn.functional and torch.special, or in the
    namespace that they are written with; `get.` stands before an attribute of a tensor. Where an op
    has a kink or is elementwise, so is the one in place, whose name has an underscore more.

    `rule` is that of alignment. `linear` is the row of the operands in which the op is linear, or
    "parts" for one that returns the parts of its operand in order. `kink` says that its results
    jump, or have other derivatives than autograd's, and `escapes` that it gives values away, to
    Python or into the shape of its result: always, or with these arguments. `written` are the
    arguments that it writes into though its name does not say so. With `reads_numbers`, a number
    that torch takes out of a tensor while it runs becomes a value or a place to read one at, and no
    shape. `operands` are the arguments that one of its results comes
    from, by its number, where these are not all. `cut_along` is the position of the dimension along
    which it takes its first operand apart.
    """

    names: str
    rule: Rule | None = None
    linear: Builder | Literal["parts"] | None = None
    kink: bool | Condition = False
    written: Written | None = None
    escapes: bool | Condition = False
    reads_numbers: bool = False
    operands: Callable[[int, Args], Args] | None = None
    cut_along: int | None = None


def carries(value: Any) -> bool:
    """Return whether a value is a tensor that is tracked itself."""
    return isinstance(value, Tensor) and getattr(value, "_provenance", None) is not None


def besides_first(args: Args, kwargs: Kwargs) -> bool:
    """Return whether anything after the first operand is tracked: the values there make a shape."""
    return any(map(carries, tensors_in(args[1:], kwargs)))


def is_count(args: Args, kwargs: Kwargs) -> bool:
    """Return whether a norm is of order zero: it counts what is not zero."""
    order = argument(args, kwargs, 1, "p", "ord")
    return isinstance(order, Tensor) or order == 0


def is_count_of_pairs(args: Args, kwargs: Kwargs) -> bool:
    """Return whether the norm of a difference is of order zero."""
    return is_count(args[1:], kwargs)


def numbered(index: int, args: Args) -> Args:
    """Put the number of the result before the arguments: the shapes may be the same."""
    return (index, *args)


def listed(args: Args) -> Args:
    """Return the operands of an op that takes them in a list, or one by one."""
    return args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args


def own(index: int, args: Args) -> Args:
    """Return the operand of the same number as the result."""
    return (listed(args)[index],)


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
