"""Plates: batches of independent repetitions, the open ones, and their errors.

The statement that opens one is `ancestral.trace.program.plate.plate`.
"""

import itertools
import math
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import raw
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import place


class PlateError(SiteError):
    """A plate is declared wrongly, or what it claims does not hold."""


@dataclass(frozen=True)
class Plate:
    """A plate that a site is in.

    `dim` is counted from the right of the batch shape; None where the repetitions come one after
    the other: then `turn` is the number of this one. `size` is that of the whole plate, of which
    `subsample_size` repetitions are there.
    """

    name: str
    size: int
    subsample_size: int
    dim: int | None
    turn: int | None = None
    serial: int = field(default=-1, compare=False, repr=False)  # of the draw of its indices
    indices: Tensor | None = field(default=None, compare=False, repr=False)
    is_checked: bool = field(default=True, compare=False, repr=False)  # whether it claims anything

    @property
    def scale(self) -> float:
        """How often each repetition counts, so that a subsample stands for the whole."""
        return self.size / self.subsample_size


def is_same(indices: Tensor, others: Tensor) -> bool:
    """Return whether two plates have the same repetitions in the same order."""
    same: bool = raw(torch.equal, raw(Tensor.cpu, indices), raw(Tensor.cpu, others))
    return same


_open: "ContextVar[tuple[Plate, ...]]" = ContextVar("open plates", default=())


open_plates = _open.get
"""Returns the plates that are open in this thread or task, outermost first."""


def scale_of(plates: tuple[Plate, ...]) -> float:
    """Return how often a cost within these plates counts."""
    return math.prod(plate.scale for plate in plates)


def push(plate: Plate) -> None:
    """Open a plate.

    Raises:
        PlateError: if one of its name is open.
    """
    around = _open.get()
    if any(known.name == plate.name for known in around):
        raise PlateError(
            f"plate {plate.name!r} ({place().location}) cannot be opened here: it is open already; "
            "give the inner plate its own name"
        )
    _open.set((*around, plate))


def pop(serial: int) -> None:
    """Close a plate, which need not be the innermost: generators end when they like."""
    _open.set(tuple(known for known in _open.get() if known.serial != serial))


def free_dim(name: str, dim: int | None) -> int:
    """Return the dimension that a plate gets."""
    taken = {known.dim: known.name for known in _open.get() if known.dim is not None}
    free = next(d for d in itertools.count(-1, -1) if d not in taken)
    if dim is None:
        return free
    if dim in taken:
        raise PlateError(
            f"plate {name!r} ({place().location}) cannot be opened here: its dimension {dim} is "
            f"that of plate {taken[dim]!r}, which is open; expected a free one, such as dim={free}"
        )
    return dim
