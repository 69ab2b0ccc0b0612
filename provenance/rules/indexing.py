"""Rules of subscripts, read and written: numbers, slices, None, masks, and tensors of indices.

Tensors of indices meet as in broadcasting, and their dimensions stand in the result where the
first of them stood, or in front if something else is between them. Each keeps its own index there:
``table[z]`` depends, at its element n, on the element n of ``z``. What is read keeps a dimension
if the indices along it are known to be 0, 1, 2 ...: the first one of ``x`` in
``x[torch.arange(len(z)), z]``. That is a matter of values, so that such an answer must not be
remembered by shapes alone: see `values_read`.

>>> from torch import arange, ones, tensor
>>> x, rows, columns = ones(3, 4), arange(3), tensor([2, 0, 1])
>>> [step for _, step in getitem((3,), (x, (rows, columns)), {}) or ()][1:]
[(0,), (0,)]
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import LOST, Alignment, Shape, Step, windows_of
from ancestral.provenance.algebra.factors import Dim, Factor, Span, merged, part
from ancestral.provenance.algebra.strided_view import strides_of
from ancestral.provenance.rules.op import Op, Pair, identity, lost, rank_of
from ancestral.provenance.tensor.arguments import Args, Function, Kwargs, argument, tensors_in
from ancestral.provenance.tensor.known_index import (
    MASKS,
    Run,
    is_known,
    known_runs,
    note_read,
    shares,
    values_of,
)
from ancestral.provenance.tensor.tensor import provenance, raw


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
    steps = _taken(x, found)
    return [*((x, step) for step in steps), *_of_indices(shape, found), *lost(shape, found.scalars)]


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


def values_read(function: Function, args: Args, kwargs: Kwargs) -> tuple[bytes, ...] | None:
    """Return what tells the values of indices that the rule of a function reads, () for none.

    None if that takes too long, or is not all that the rule looks at.
    """
    if function not in READERS:
        return ()
    given = [t for t in tensors_in(args[1:], kwargs) if type(t) is Tensor]
    # What nobody tracks keeps nothing of what is read from it, whatever the values are.
    if not given or (function in _READ_ONLY and provenance(args[0]) is None):
        return ()
    return values_of(given, args[0]) if function in _READ_ONLY else None


_READ_ONLY: frozenset[Function] = frozenset(
    {Tensor.__getitem__, Tensor.index_select, torch.index_select}
)
READERS = _READ_ONLY | frozenset(
    getattr(space, name)
    for space in (torch, Tensor)
    for name in """
        __setitem__ index_put index_put_ index_add index_add_ index_copy index_copy_ index_fill
        index_fill_ index_reduce index_reduce_
    """.split()
    if hasattr(space, name)
)
"""The functions whose rules read the values of indices: shapes do not tell what they answer."""


def _parsed(index: Any, rank: int) -> _Subscript | None:
    """Take a subscript of a tensor apart; None where it holds something unusual."""
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    items = [_indices(item) if isinstance(item, (list, tuple, range)) else item for item in items]
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


def _indices(items: Sequence[Any]) -> Any:
    """Return integers in a sequence as the tensor that they stand for; others as they are."""
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


class _Known(NamedTuple):
    """A dimension of a tensor that is indexed by known numbers, and the axes that these stand on.

    Along each axis stands the dimension or, of the only run of numbers, a part of it.
    """

    dim: int
    axes: dict[int, Factor]
    runs: list[Run]

    def window(self, run: Run) -> dict[int, Span]:
        """Return where a run is along the dimension."""
        return {self.dim: (run.first, run.first + run.size)}


def _known(x: Tensor, found: _Subscript) -> tuple[list[_Known], _Known | None]:
    """Return the dimensions whose indices are known, and apart the first that has several runs."""
    known: list[_Known] = []
    several: _Known | None = None
    for dim, t in found.indices:
        is_mask = t.dtype in MASKS
        if is_mask and rank_of(t) != 1:
            continue
        first, size, shape = found.start + found.width - rank_of(t), x.shape[dim], tuple(t.shape)
        runs = known_runs(t, x, size)
        count = sum(run.size for run in runs)
        shape = (count,) if is_mask else shape
        if len(runs) == 1:
            units = zip(shape, strides_of(shape), strict=True)
            parts = [part(dim, n, unit, count) for n, unit in units]
            known.append(_Known(dim, {first + axis: each for axis, each in enumerate(parts)}, runs))
        elif runs and rank_of(t) == 1:
            several = several or _Known(dim, {first: Factor(dim, count)}, runs)
        elif not is_mask and is_known(t) and not shares(t, x):
            counted = (a for a, n in enumerate(shape) if n == size and _counts(t, a))
            known += [_Known(dim, {first + a: Factor(dim, size)}, []) for a in islice(counted, 1)]
    if several is not None and any(axis in each.axes for each in known for axis in several.axes):
        several = None  # one dimension can stand along an axis
    return known, several


def _taken(x: Tensor, found: _Subscript) -> list[Step]:
    """Return what is read, in one step for each run of an index that has several."""
    known, several = _known(x, found)
    dims: list[Dim] = list(found.axes)
    there: dict[int, Span] = {}
    for each in known:
        for axis, factor in each.axes.items():
            dims[axis] = dims[axis] if factor.size == 1 else merged([factor])
        for run in each.runs:
            there |= each.window(run)
    if several is None:
        return [Alignment(tuple(dims), there=windows_of(there))]
    ((axis, factor),) = several.axes.items()
    dims[axis] = factor.dim
    return [
        Alignment(
            tuple(dims),
            ((axis, run.at, run.at + run.size),),
            windows_of(there | several.window(run)),
        )
        for run in several.runs
    ]


def _counts(t: Tensor, axis: int) -> bool:
    """Return whether every element of a tensor is its own index along one dimension."""
    index = raw(torch.arange, t.shape[axis], dtype=t.dtype, device=t.device)
    index = raw(Tensor.view, index, [-1 if d == axis else 1 for d in range(rank_of(t))])
    is_counting = bool(raw(Tensor.equal, t, raw(Tensor.expand_as, index, t)))
    if is_counting:
        note_read(t)
    return is_counting


def _written(shape: Shape, x: Tensor, found: _Subscript, value: Any) -> list[Pair]:
    """Return the alignments of what is put in, and of the indices that say where."""
    end, rank = found.start + found.width, len(found.axes)
    known, several = _known(x, found)
    # For each dimension of x, the axis of what is put in that runs along it.
    along = {dim: axis for axis, dim in enumerate(found.axes) if dim != LOST}
    along |= {k.dim: axis for k in known for axis, f in k.axes.items() if not f.total}
    pairs = lost(shape, found.scalars)
    if isinstance(value, Tensor):
        steps = _put(shape, value, rank_of(value) - rank, along, known, several)
        pairs += [(value, step) for step in steps]
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


def _put(
    shape: Shape,
    value: Tensor,
    shift: int,
    along: Mapping[int, int],
    known: list[_Known],
    several: _Known | None,
) -> list[Step]:
    """Return what is written of a value, in one step for each run of an index that has several.

    Its dimensions stand `shift` further to the right than the axes of the subscript.
    """

    def standing(axis: int, size: int) -> Factor:
        is_all = axis + shift >= 0 and value.shape[axis + shift] == size  # it is not broadcast
        return Factor(axis + shift if is_all else LOST, size)

    dims: list[Dim] = [LOST] * len(shape)
    for d, axis in along.items():
        dims[d] = max(axis + shift, LOST)
    here: dict[int, Span] = {}
    for each in known:
        for run in each.runs:
            here |= each.window(run)
            dims[each.dim] = merged(standing(axis, f.size) for axis, f in each.axes.items())
    if several is None:
        return [Alignment(tuple(dims), windows_of(here))]
    ((axis, factor),) = several.axes.items()
    place = dims[several.dim] = standing(axis, factor.size).dim
    return [
        Alignment(
            tuple(dims),
            windows_of(here | several.window(run)),
            () if place == LOST else ((place, run.at, run.at + run.size),),
        )
        for run in several.runs
    ]


def _is_even(value: Any, reach: int, found: _Subscript) -> bool:
    """Return whether what a mask chooses gets the same at each place, whichever others it chose."""
    if len(found.indices) > 1:
        return False
    if not isinstance(value, Tensor):
        return True
    return rank_of(value) < reach or value.shape[rank_of(value) - reach] == 1


OPS = (Op("index_put index_put_", index_put),)
