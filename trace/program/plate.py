"""Plate statement: a declared batch of independent repetitions, whole or subsampled.

A plate says that the elements along one dimension of all that is drawn, observed or declared within
it do not depend on each other. What is recorded within it is checked for that: see
`ancestral.trace.recording.plate_checks`.

>>> import torch
>>> with plate("data", 4) as index:
...     index
tensor([0, 1, 2, 3])
>>> [i for i in plate("steps", 3)]  # one repetition after the other
[0, 1, 2]
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import raw
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.place import place
from ancestral.trace.nodes.plate_frame import (
    Plate,
    PlateError,
    free_dim,
    is_same,
    open_plates,
    pop,
    push,
)
from ancestral.trace.program.site import named
from ancestral.trace.recording.message import Message, Raised, apply_stack

_serials = itertools.count()


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
        subsample_size: how many of them this run has; by default as many as `subsample` has.
        dim: the dimension, negative, counted from the right of the batch shape; by default the
            rightmost that no open plate has.
        subsample: the indices of those that this run has, [subsample_size], such as a loader of
            batches gives; by default they are drawn.

    Raises:
        PlateError: if an argument is wrong, if a plate of this name, or on this dimension, is open
            already, or if other indices than the given ones are replayed; within the block, if a
            shape or a dependency contradicts it.
    """

    def __init__(
        self,
        name: str,
        size: int,
        subsample_size: int | None = None,
        dim: int | None = None,
        *,
        subsample: Tensor | None = None,
    ) -> None:
        """Make a plate, and draw its indices if it is a part of the whole."""
        if not isinstance(name, str) or not name:
            raise _wrong_argument(name, "its name", "a text that is not empty", name)
        if not _is_count(size):
            raise _wrong_argument(name, "size", "an int greater than 0", size)
        if subsample is not None:
            subsample_size = _given_size(name, size, subsample_size, subsample)
        if subsample_size is not None and not _is_count(subsample_size):
            raise _wrong_argument(name, "subsample_size", "an int greater than 0", subsample_size)
        if subsample_size is not None and subsample_size > size:
            raise _wrong_argument(
                name, "subsample_size", f"no greater than the size {size}", subsample_size
            )
        if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool) or dim >= 0):
            expected = "a negative int, counted from the right of the batch shape"
            raise _wrong_argument(name, "dim", expected, dim)
        self.name, self.size, self.dim = name, size, dim
        self.subsample_size = size if subsample_size is None else subsample_size
        self._serial = next(_serials)
        # A loader may fill the same tensor again.
        self._given = None if subsample is None else subsample.clone()
        self._indices: Tensor | None = None

    @property
    def indices(self) -> Tensor:
        """The indices of the repetitions that are there, [subsample_size]."""
        return self._asked(self.dim)

    def __enter__(self) -> Tensor:
        """Open the plate, and return the indices [subsample_size]."""
        dim = free_dim(self.name, self.dim)
        indices = self._asked(dim)
        self._push(dim, None)
        return indices

    def __exit__(self, *raised: *Raised) -> None:
        """Close the plate."""
        pop(self._serial)

    def __iter__(self) -> Iterator[int]:
        """Yield the indices, each within the plate."""
        if self.dim is not None:
            raise PlateError(
                f"plate {self.name!r} ({place().location}) cannot be opened here: repetitions in "
                f"turn have no dimension, but dim={self.dim} was given"
            )
        for turn, index in enumerate(raw(Tensor.tolist, self._asked(None))):
            self._push(None, turn)
            try:
                yield index
            finally:
                pop(self._serial)

    def _push(self, dim: int | None, turn: int | None) -> None:
        size, part = self.size, self.subsample_size
        push(Plate(self.name, size, part, dim, turn, self._serial, self._indices))

    def _asked(self, dim: int | None) -> Tensor:
        """Return the indices, drawn once, or those of a plate that is replayed."""
        about = {"size": self.size, "subsample_size": self.subsample_size, "dim": dim}
        message = Message(
            "plate", self.name, place(), value=self._indices, infer=about, plates=open_plates()
        )
        answered = apply_stack(message, self._settled)
        assert answered.value is not None
        if self._given is not None and not is_same(answered.value, self._given):
            replayed = raw(Tensor.tolist, answered.value)
            raise _wrong_argument(
                self.name,
                "subsample",
                f"the indices that it is replayed with, {replayed}",
                raw(Tensor.tolist, self._given),
            )
        # What is replayed has lost what the given indices depend on.
        self._indices = answered.value if self._given is None else self._given
        self._serial = answered.infer["serial"]
        return self._indices

    def _settled(self, message: Message) -> Message:
        serial = self._serial if message.origin is None else message.origin.infer["serial"]
        value = self._drawn() if message.value is None else message.value
        return named(replace(message, value=value, infer={**message.infer, "serial": serial}))

    def _drawn(self) -> Tensor:
        if self._given is not None:
            return self._given
        if self.subsample_size == self.size:
            return torch.arange(self.size)
        return torch.randperm(self.size)[: self.subsample_size]


def subsample(data: Tensor, event_dim: int = 0) -> Tensor:
    """Return the rows of data that the subsampled plates around have: [*batch, *event].

    A dimension of the batch that has the size of the whole plate, at the plate's place, is indexed
    by its indices; one that is already a part, or of size 1, is left.

    Args:
        data: the whole data, [*batch, *event].
        event_dim: how many of its last dimensions are an event.

    Raises:
        TypeError: if `data` is no tensor.
        PlateError: if a dimension fits neither the plate nor its subsample.
        ValueError: if the data have fewer dimensions than `event_dim`.
    """
    if not isinstance(data, Tensor):
        raise TypeError(f"subsample takes data as a torch.Tensor, not {kind_of(data)}")
    if not 0 <= event_dim <= data.dim():
        raise ValueError(f"event_dim must be one of 0 to {data.dim()}, the dimensions of the data")
    for plate_ in open_plates():
        if plate_.dim is None or plate_.dim - event_dim < -data.dim():
            continue
        dim = plate_.dim - event_dim
        size = data.shape[dim]
        if size in (plate_.subsample_size, 1) and size != plate_.size:
            continue
        if size != plate_.size:
            raise PlateError(
                f"plate {plate_.name!r} ({place().location}): dimension {dim} of the data must "
                f"have the plate's size {plate_.size}, or that of its subsample "
                f"{plate_.subsample_size}, not {size}"
            )
        assert plate_.indices is not None
        if not is_same(plate_.indices, torch.arange(plate_.size)):
            data = data.index_select(dim, plate_.indices.to(data.device))
    return data


def _given_size(name: str, size: int, subsample_size: int | None, subsample: Tensor) -> int:
    """Return how many indices a plate is given.

    Raises:
        PlateError: if they are no different indices of it, or not as many as is said.
    """
    expected = f"a tensor of different indices from 0 to {size - 1}, of one dimension"
    if not isinstance(subsample, Tensor):
        raise _wrong_argument(name, "subsample", expected, subsample)
    is_whole = not (subsample.is_floating_point() or subsample.is_complex())
    if subsample.dim() != 1 or not is_whole or subsample.dtype == torch.bool:
        raise _wrong_argument(name, "subsample", expected, subsample)
    indices = raw(Tensor.tolist, subsample)
    if not indices or len({*indices}) < len(indices) or min(indices) < 0 or max(indices) >= size:
        raise _wrong_argument(name, "subsample", expected, indices)
    if subsample_size not in (None, len(indices)):
        raise _wrong_argument(name, "subsample", f"{subsample_size} indices", indices)
    return len(indices)


def _wrong_argument(name: object, argument: str, expected: str, came: object) -> PlateError:
    where = place().location
    return PlateError(
        f"plate {short(name)} ({where}): {argument} must be {expected}, not {short(came)}"
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
