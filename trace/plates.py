"""Plates: batches of independent repetitions, as the program declares them.

A plate says that the elements along one dimension of all that is drawn, observed or declared within
it do not depend on each other. What is recorded within it is checked for that: see
`ancestral.trace.claims`.

>>> import torch
>>> with plate("data", 4) as index:
...     index
tensor([0, 1, 2, 3])
>>> [i for i in plate("steps", 3)]  # one repetition after the other
[0, 1, 2]
"""

import itertools
import math
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor

from ancestral.provenance.tensor import raw


class PlateError(ValueError):
    """A plate is declared wrongly, or what it claims does not hold."""


class PlateArgumentError(PlateError):
    """A plate is made with an argument that makes no sense."""

    def __init__(self, name: object, argument: str, expected: str, came: object) -> None:
        """Name the plate, the argument, what was expected and what came."""
        super().__init__(f"plate {name!r}: {argument} must be {expected}, not {came!r}")


class NestedPlateError(PlateError):
    """A plate is opened where it cannot be."""

    def __init__(self, name: str, problem: str) -> None:
        """Name the plate and say what is in its way."""
        super().__init__(f"plate {name!r} cannot be opened here: {problem}")


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

    @property
    def scale(self) -> float:
        """How often each repetition counts, so that a subsample stands for the whole."""
        return self.size / self.subsample_size


_open: "ContextVar[tuple[Plate, ...]]" = ContextVar("open plates", default=())
_serials = itertools.count()


def open_plates() -> tuple[Plate, ...]:
    """Return the plates that are open in this thread or task, outermost first."""
    return _open.get()


def scale_of(plates: tuple[Plate, ...]) -> float:
    """Return how often a cost within these plates counts."""
    return math.prod(plate.scale for plate in plates)


class plate:  # noqa: N801 (used as in Pyro: with an.plate("data", 100) as index)
    """Declare that the repetitions along a dimension are independent of each other.

    ``with an.plate("data", 1000, subsample_size=50) as index:`` gives the indices of the
    repetitions that are there, drawn without replacement; without `subsample_size`, all of them.
    ``for i in an.plate("steps", 10):`` gives one after the other. A plate can be opened again, with
    the same indices, and plates of one name within a recording are the same plate.

    What is drawn, observed or declared with `an.cost` within it must have the plate's size at the
    plate's dimension of its batch shape (the dimensions of samples and batch of a distribution, all
    dimensions of a cost), and element n of it may depend, directly or through other sites, on
    element n alone of what else is in the plate. Both are checked at once, from shapes and
    alignments, for all values. After an escape (``if z.any():``) what follows depends on all
    elements. Not checked are sums that are formed by hand, in the block or after it: a loss may
    mix what it likes.

    `Node.scale` of what is within a subsampled plate is ``size / subsample_size``: that often it
    counts in `Trace.backward`, if it is a cost, and in `Trace.log_prob_sum`. A loss that is summed
    by hand, for `an.backward`, is not scaled.

    Args:
        name: names the plate in the trace.
        size: how many repetitions there are.
        subsample_size: how many of them this run has.
        dim: the dimension, negative, counted from the right of the batch shape; by default the
            rightmost that no open plate has.

    Raises:
        PlateError: if an argument is wrong, if a plate of this name, or on this dimension, is open
            already; within the block, if a shape or a dependency contradicts it.
    """

    def __init__(
        self, name: str, size: int, subsample_size: int | None = None, dim: int | None = None
    ) -> None:
        """Make a plate, and draw its indices if it is a part of the whole."""
        if not isinstance(name, str) or not name:
            raise PlateArgumentError(name, "its name", "a text that is not empty", name)
        if not _is_count(size):
            raise PlateArgumentError(name, "size", "an int greater than 0", size)
        if subsample_size is not None and not _is_count(subsample_size):
            raise PlateArgumentError(
                name, "subsample_size", "an int greater than 0", subsample_size
            )
        if subsample_size is not None and subsample_size > size:
            raise PlateArgumentError(
                name, "subsample_size", f"no greater than the size {size}", subsample_size
            )
        if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool) or dim >= 0):
            expected = "a negative int, counted from the right of the batch shape"
            raise PlateArgumentError(name, "dim", expected, dim)
        self.name, self.size, self.dim = name, size, dim
        self.subsample_size = size if subsample_size is None else subsample_size
        is_part = self.subsample_size < size
        self.indices: Tensor = (
            torch.randperm(size)[: self.subsample_size] if is_part else torch.arange(size)
        )
        self._serial = next(_serials)

    def __enter__(self) -> Tensor:
        """Open the plate, and return the indices [subsample_size]."""
        self._push(_free(self.name, self.dim), None)
        return self.indices

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the plate."""
        self._pop()

    def __iter__(self) -> Iterator[int]:
        """Yield the indices, each within the plate."""
        if self.dim is not None:
            raise NestedPlateError(
                self.name, f"repetitions in turn have no dimension, but dim={self.dim} was given"
            )
        for turn, index in enumerate(raw(Tensor.tolist, self.indices)):
            self._push(None, turn)
            try:
                yield index
            finally:
                self._pop()

    def _push(self, dim: int | None, turn: int | None) -> None:
        around = _open.get()
        if any(known.name == self.name for known in around):
            raise NestedPlateError(
                self.name, "it is open already; give the inner plate its own name"
            )
        here = Plate(self.name, self.size, self.subsample_size, dim, turn, self._serial)
        _open.set((*around, here))

    def _pop(self) -> None:
        # Need not be the innermost: generators end when they like.
        _open.set(tuple(known for known in _open.get() if known.serial != self._serial))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _free(name: str, dim: int | None) -> int:
    """Return the dimension that a plate gets."""
    taken = {known.dim: known.name for known in _open.get() if known.dim is not None}
    if dim is None:
        return next(d for d in itertools.count(-1, -1) if d not in taken)
    if dim in taken:
        raise NestedPlateError(
            name,
            f"its dimension {dim} is that of plate {taken[dim]!r}, which is open; take another, "
            f"such as dim={next(d for d in itertools.count(-1, -1) if d not in taken)}",
        )
    return dim
