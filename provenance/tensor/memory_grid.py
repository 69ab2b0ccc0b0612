"""Memory grid: what was written into memory through one view of it, as another view sees it.

A grid is a shape that counts the elements of a storage, as fine as the views that met on it.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment import Alignment, Regroup, Shape
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.algebra.strided_view import StridedView, placed, refined, seen
from ancestral.provenance.tensor.torch_internals import (
    DisableTorchFunction,
    has_storage,
    is_alias_of,
    read_base,
)


class Row(NamedTuple):
    """The elements of a storage: how many there are, of how many bytes."""

    size: int
    itemsize: int


def row_of(storage: torch.UntypedStorage, tensor: Tensor) -> Row | None:
    """Return the elements of a storage as a tensor on it counts them; None if it does not tell."""
    try:
        with DisableTorchFunction():
            return Row(storage.nbytes() // tensor.element_size(), tensor.element_size())
    except RuntimeError:  # one that is fake has no memory
        return None


def base_of(tensor: Tensor) -> Tensor | None:
    """Return the tensor that another is a view of, None where it is of none.

    One whose `data` was swapped lies over other memory by now, though torch still names its base.
    """
    with DisableTorchFunction():
        base: Tensor | None = read_base(tensor)
        return base if base is not None and is_alias_of(base, tensor) else None


def may_share(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors see the same memory; True where one has none that tells."""
    return is_alias_of(one, other) or not (has_storage(one) and has_storage(other))


def view_of(tensor: Tensor) -> StridedView:
    """Return where the elements of a tensor stand in its storage."""
    with DisableTorchFunction():
        return StridedView(int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())


class Write(NamedTuple):
    """A write into a view of some memory, and what the view depends on now.

    `grid` is one that fits the view. `chosen_by` is what decided which part of the memory the view
    is: all of the memory depends on that.
    """

    found: Provenance
    view: StridedView
    row: Row
    grid: Shape
    chosen_by: Provenance | None = None

    def on(self, grid: Shape) -> Provenance:
        """Return what the memory depends on, on a grid that is as fine."""
        moved = _moved(self.found, placed(grid, self.view), grid) or self.found.lost(grid)
        return moved if self.chosen_by is None else moved.union(self.chosen_by.lost(grid))


def write_of(found: Provenance, target: Tensor, storage: torch.UntypedStorage) -> Write | None:
    """Return the write after which a tensor depends on something; None if memory does not tell."""
    base, row, view = base_of(target), row_of(storage, target), view_of(target)
    if row is None or (base is not None and row != row_of(storage, base)):
        return None
    whole = (row.size,) if base is None else refined((row.size,), view_of(base))
    return Write(found, view, row, refined(whole, view))


def regrouped(content: Provenance, view: StridedView) -> Provenance:
    """Return what memory depends on, on a grid that is refined by a view."""
    grid = refined(content.shape, view)
    found = content.remap(grid, Regroup(content.shape, grid))
    assert found is not None
    return found


def read(content: Provenance, view: StridedView) -> Provenance | None:
    """Return what a view of memory depends on, None for nothing."""
    fine = regrouped(content, view)
    return _moved(fine, seen(fine.shape, view), view.shape)


def _moved(found: Provenance, step: Alignment | None, shape: Shape) -> Provenance | None:
    return found.lost(shape) if step is None else found.remap(shape, step)
