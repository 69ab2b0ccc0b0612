"""Signatures: the dimensions that one call of an op takes, of which the rest are a batch.

A signature names the operands, each with a letter for every dimension at its end that the op
works on. The dimensions in front of those are a batch: they meet at the right, as in
broadcasting, and stand in front in the result. A capital letter is an index that the result keeps;
along the dimensions with a small one, elements are mixed.

>>> from torch import ones
>>> solve = Signature("A(mm) B(mK) -> (mK)")
>>> [dims for _, dims in solve((5, 2, 4), (ones(5, 2, 2), ones(2, 4)), {}) or ()]
[(0, -1, -1), (-1, -1, 1)]
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from ancestral.provenance.alignment import LOST, Shape
from ancestral.provenance.operands import Args, Kwargs, Pair, argument, rank_of


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
