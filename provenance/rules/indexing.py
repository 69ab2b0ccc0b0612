"""Rules of subscripts, read and written: numbers, slices, None, masks, and tensors of indices.

Tensors of indices meet as in broadcasting, and their dimensions stand in the result where the
first of them stood, or in front if something else is between them. Each keeps its own index there:
``table[z]`` depends, at its element n, on the element n of ``z``. What is read keeps a dimension
if the indices along it are known to be 0, 1, 2 ...: the first one of ``x`` in
``x[torch.arange(len(z)), z]``. That is a matter of values, so that such an answer must not be
remembered by shapes: see `reads_values`.

>>> from torch import arange, ones, tensor
>>> x, rows, columns = ones(3, 4), arange(3), tensor([2, 0, 1])
>>> [dims for _, dims in getitem((3,), (x, (rows, columns)), {}) or ()]
[(0,), (0,), (0,)]
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.rules.op import Op, Pair, identity, lost, rank_of
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import Args, Function, Kwargs, argument, tensors_in
from ancestral.provenance.tensor.tensor import provenance, raw
from ancestral.provenance.tensor.torch_internals import is_functorch_wrapped_tensor

MASKS = (torch.bool, torch.uint8)


@dataclass(frozen=True)
class _Subscript:
    """What a subscript makes of the dimensions of a tensor.

    `axes` are those of the result: the dimension that each is, or `LOST`. The axes `start` to
    `start + width` are those of the tensors of indices; each of these stands with the first
    dimension that it consumes in `indices`.
    """

    axes: tuple[int, ...]
    start: int
    width: int
    indices: tuple[tuple[int, Tensor], ...]
    scalars: tuple[Tensor, ...]  # numbers, in tensors


def getitem(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair] | None:
    """Slices keep a dimension, integers drop it, None inserts one; see above for tensors."""
    x, index = args
    found = _parsed(index, rank_of(x))
    if found is None or len(found.axes) != len(shape):
        return None
    axes = list(found.axes)
    for dim, place in _counted(x, found):
        axes[place] = dim
    return [(x, tuple(axes)), *_of_indices(shape, found), *lost(shape, found.scalars)]


def setitem(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """What was there stays where it was; what is put in keeps the dimensions it is put along."""
    x, index, value = args[:3]
    found = _parsed(index, rank_of(x))
    if found is None:
        return [(x, identity(len(shape))), *lost(shape, index, value)]
    return [(x, identity(len(shape))), *_written(shape, x, found, value)]


def index_put(shape: Shape, args: Args, kwargs: Kwargs) -> Iterable[Pair]:
    """As `setitem`, with tensors alone in the subscript."""
    index = tuple(argument(args, kwargs, 1, "indices"))
    return setitem(shape, (args[0], index, argument(args, kwargs, 2, "values")), {})


def reads_values(function: Function, args: Args, kwargs: Kwargs) -> bool:
    """Return whether the rule of a function reads the values of indices that nobody tracks."""
    if function not in _READ:
        return False
    given = args[1] if len(args) > 1 else kwargs.get("indices")
    items = given if isinstance(given, (tuple, list)) else (given,)
    if not any(type(t) is Tensor and t.dtype not in MASKS for t in items):
        return False
    # What nobody tracks keeps nothing of what is read from it, whatever the values are.
    return function is not _READ_ONLY or provenance(args[0]) is not None


_READ_ONLY: Function = Tensor.__getitem__
_READ = frozenset(
    {_READ_ONLY, Tensor.__setitem__, torch.index_put, torch.index_put_}
    | {Tensor.index_put, Tensor.index_put_}
)


def _parsed(index: Any, rank: int) -> _Subscript | None:
    """Take a subscript of a tensor apart; None where it holds something unusual."""
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    items = [_indices(item) if isinstance(item, list) else item for item in items]
    if not all(map(_is_known, items)):
        return None
    consumed = sum(map(_consumed, items))
    if not any(item is Ellipsis for item in items):
        items.append(Ellipsis)
    axes: list[int] = []
    places: list[int] = []  # where in axes a tensor of indices stands
    indices: list[tuple[int, Tensor]] = []
    at = 0
    for item in items:
        if item is None:
            axes.append(LOST)
        elif item is Ellipsis:
            axes.extend(range(at, at + rank - consumed))
            at += rank - consumed
            continue
        elif isinstance(item, slice):
            axes.append(at)
        elif isinstance(item, Tensor) and rank_of(item):
            indices.append((at, item))
            places.append(len(axes))
        at += _consumed(item)
    width = max((1 if t.dtype in MASKS else rank_of(t) for _, t in indices), default=0)
    start = places[0] if places and places[0] == places[-1] else 0
    axes[start:start] = [LOST] * width
    scalars = tuple(t for t in items if isinstance(t, Tensor) and not rank_of(t))
    return _Subscript(tuple(axes), start, width, tuple(indices), scalars)


def _indices(items: list[Any]) -> Any:
    """Return a list of integers as the tensor that it stands for; other lists as they are."""
    return torch.tensor(items) if items and all(type(n) is int for n in items) else items


def _is_known(item: Any) -> bool:
    if isinstance(item, Tensor):
        return rank_of(item) > 0 or item.dtype not in MASKS
    if isinstance(item, slice):
        return not any(True for _ in tensors_in(item))
    return item is None or item is Ellipsis or type(item) is int


def _consumed(item: Any) -> int:
    """Return how many dimensions an item of a subscript is for."""
    if item is None or item is Ellipsis:
        return 0
    return rank_of(item) if isinstance(item, Tensor) and item.dtype in MASKS else 1


def _of_indices(shape: Shape, found: _Subscript) -> list[Pair]:
    """Return the alignments of the tensors of indices with a result that is read."""
    end = found.start + found.width
    pairs: list[Pair] = []
    for _, t in found.indices:
        dims = [LOST] * len(shape)
        if t.dtype not in MASKS:  # which place is the n-th of a mask, all before it decide
            dims[end - rank_of(t) : end] = range(rank_of(t))
        pairs.append((t, tuple(dims)))
    return pairs


def _counted(x: Tensor, found: _Subscript) -> list[tuple[int, int]]:
    """Return the dimensions whose indices are known to be 0, 1, 2 ..., and where these stand."""
    end = found.start + found.width
    pairs: list[tuple[int, int]] = []
    for dim, t in found.indices:
        if not _is_constant(t) or t.dtype in MASKS or _shares(t, x):
            continue
        for axis, size in enumerate(t.shape):
            if size == x.shape[dim] and _counts(t, axis):
                pairs.append((dim, end - rank_of(t) + axis))
                break
    return pairs


def _is_constant(t: Tensor) -> bool:
    """Return whether the values of a tensor can be read, and depend on nothing."""
    is_wrapped = is_functorch_wrapped_tensor(t)
    return type(t) is Tensor and provenance(t) is None and not is_wrapped and not t.is_meta


def _counts(t: Tensor, axis: int) -> bool:
    """Return whether every element of a tensor is its own index along one dimension."""
    index = raw(torch.arange, t.shape[axis], dtype=t.dtype, device=t.device)
    index = raw(Tensor.view, index, [-1 if d == axis else 1 for d in range(rank_of(t))])
    return bool(raw(Tensor.equal, t, raw(Tensor.expand_as, index, t)))


def _shares(t: Tensor, x: Tensor) -> bool:
    """Return whether a write into one tensor may be seen in another."""
    a, b = raw(storage.storage_of, t), raw(storage.storage_of, x)
    return a is None or b is None or bool(a.data_ptr() == b.data_ptr())


def _written(shape: Shape, x: Tensor, found: _Subscript, value: Any) -> list[Pair]:
    """Return the alignments of what is put in, and of the indices that say where."""
    end, rank = found.start + found.width, len(found.axes)
    # For each dimension of x, the axis of what is put in that runs along it.
    along = {dim: axis for axis, dim in enumerate(found.axes) if dim != LOST}
    along.update(_counted(x, found))
    pairs = lost(shape, found.scalars)
    if isinstance(value, Tensor):
        moved = ((along.get(d, LOST), rank_of(value) - rank) for d in range(len(shape)))
        pairs.append((value, tuple(_at_least(axis, axis + shift) for axis, shift in moved)))
    for dim, t in found.indices:
        if t.dtype not in MASKS:
            shift = rank_of(t) - end
            own = (along.get(d, LOST) for d in range(len(shape)))
            first = max(found.start, end - rank_of(t))
            dims = tuple(a + shift if first <= a < end else LOST for a in own)
        else:
            dims = tuple(
                d - dim
                if dim <= d < dim + rank_of(t) and _is_even(value, rank - found.start, found)
                else LOST
                for d in range(len(shape))
            )
        pairs.append((t, dims))
    return pairs


def _at_least(axis: int, dim: int) -> int:
    return dim if axis != LOST and dim >= 0 else LOST


def _is_even(value: Any, reach: int, found: _Subscript) -> bool:
    """Return whether what a mask chooses gets the same at each place, whichever others it chose."""
    if len(found.indices) > 1:
        return False
    if not isinstance(value, Tensor):
        return True
    return rank_of(value) < reach or value.shape[rank_of(value) - reach] == 1


OPS = (Op("index_put index_put_", index_put),)
