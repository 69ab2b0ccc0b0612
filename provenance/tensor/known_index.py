"""Known indices: those whose values depend on nothing, as the runs of neighbours that they take.

>>> runs_of([4, 5, 6, 0])
[Run(at=0, first=4, size=3), Run(at=3, first=0, size=1)]
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from hashlib import sha256
from typing import NamedTuple

import torch
from torch import Tensor

from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.tensor import provenance, raw
from ancestral.provenance.tensor.torch_internals import is_functorch_wrapped_tensor

MOST_RUNS = 8
"""Of one index: with more, what is taken is not told apart."""
_MOST_NUMBERS, _FEW_NUMBERS = 2**20, 2**10
_SHORT = 256  # bytes
MASKS = (torch.bool, torch.uint8)
"""The types of truth values."""

_reads: ContextVar[list[Tensor] | None] = ContextVar("indices that were read", default=None)


class Run(NamedTuple):
    """Neighbours that are taken side by side: where in the index, and where in what it is of."""

    at: int
    first: int
    size: int


def runs_of(indices: Sequence[int]) -> list[Run]:
    """Return the runs of indices that follow each other."""
    starts = [n for n, i in enumerate(indices) if n == 0 or i != indices[n - 1] + 1]
    ends = [*starts[1:], len(indices)]
    return [
        Run(start, indices[start], end - start) for start, end in zip(starts, ends, strict=True)
    ]


def known_runs(index: Tensor, operand: Tensor, size: int) -> list[Run]:
    """Return the runs of an index, row by row, into `size` elements of an operand; none if unknown.

    A mask of one dimension stands for the places that it chooses. An index is known if it depends
    on nothing, and no write into the operand can be seen in it.
    """
    if not is_known(index) or shares(index, operand):
        return []
    found: list[Run] = raw(_runs_in, index, size)
    if found:
        note_read(index)
    return found


def _runs_in(index: Tensor, size: int) -> list[Run]:
    if index.dtype.is_floating_point or index.numel() > _MOST_NUMBERS:
        return []
    numbers = (index.nonzero() if index.dtype in MASKS else index).flatten().long()
    if not numbers.numel():
        return []
    numbers = torch.where(numbers < 0, numbers + size, numbers)
    breaks = int((numbers[1:] != numbers[:-1] + 1).sum())
    return runs_of(numbers.tolist()) if breaks < MOST_RUNS else []


def as_number(item: object, operand: Tensor) -> object:
    """Return the number that an index of no dimensions is known to be, anything else as it is."""
    if not isinstance(item, Tensor) or item.dtype in MASKS or not is_known(item):
        return item
    if raw(Tensor.dim, item) or shares(item, operand):
        return item
    note_read(item)
    return int(raw(Tensor.item, item))


@contextmanager
def reads_noted() -> Iterator[list[Tensor]]:
    """Give a list of the indices whose values tell, within the block, what is taken."""
    reads = list[Tensor]()
    token = _reads.set(reads)
    try:
        yield reads
    finally:
        _reads.reset(token)


def values_of(indices: Iterable[Tensor], operand: Tensor) -> tuple[bytes, ...] | None:
    """Return what tells the values of few and small indices, of those that read an operand.

    None if they are many, on another device, not known, or if it is noted that they are read.
    """
    if _reads.get() is not None:
        return None
    found: list[bytes] = []
    for index in indices:
        if not (is_known(index) and index.is_cpu and index.layout is torch.strided):
            return None
        if index.numel() > _FEW_NUMBERS or shares(index, operand):
            return None
        told: bytes = raw(_bytes_of, index)
        found.append(told if len(told) <= _SHORT else sha256(told).digest())
    return tuple(found)


def _bytes_of(index: Tensor) -> bytes:
    return index.detach().numpy().tobytes()


def note_read(index: Tensor) -> None:
    """Note that the values of an index have told what is taken."""
    reads = _reads.get()
    if reads is not None:
        reads.append(index)


def is_known(index: Tensor) -> bool:
    """Return whether the values of a tensor can be read, and depend on nothing."""
    is_wrapped = is_functorch_wrapped_tensor(index)
    return (
        type(index) is Tensor and provenance(index) is None and not is_wrapped and not index.is_meta
    )


def shares(index: Tensor, operand: Tensor) -> bool:
    """Return whether a write into one tensor may be seen in another."""
    return bool(raw(_share, index, operand))


def _share(index: Tensor, operand: Tensor) -> bool:
    a, b = storage.storage_of(index), storage.storage_of(operand)
    return a is None or b is None or a.data_ptr() == b.data_ptr()
