"""Tables of weights kept as logarithms: their products and sums.

A weight of zero is ``-inf``, with derivative zero. What is summed is scaled by its greatest weight
only, never by that of another factor, so that nothing underflows that could matter.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import attach, provenance, untrack


@dataclass(frozen=True, eq=False)
class Table:
    """Logarithms of weights, one dimension for each of the axes."""

    log: Tensor
    axes: tuple[Hashable, ...]

    @property
    def sizes(self) -> Mapping[Hashable, int]:
        """How long each axis is."""
        return dict(zip(self.axes, self.log.shape, strict=True))


def product(tables: Sequence[Table]) -> Table:
    """Return the product of tables, over all their axes."""
    axes = tuple(dict.fromkeys(axis for table in tables for axis in table.axes))
    total = along(tables[0], axes)
    for table in tables[1:]:
        total = total + along(table, axes)
    return Table(total, axes)


def along(table: Table, axes: Sequence[Hashable]) -> Tensor:
    """Return the logarithms with one dimension for each of the axes, of size 1 where it has none.

    >>> along(Table(torch.zeros(2, 3), ("a", "b")), ("b", "c", "a")).shape
    torch.Size([3, 1, 2])
    """
    present = [axis for axis in axes if axis in table.axes]
    log = table.log
    order = [table.axes.index(axis) for axis in present]
    if order != sorted(order):
        log = log.permute(order)
    for place, axis in enumerate(axes):
        if axis not in table.axes:
            log = log.unsqueeze(place)
    return log


def summed(table: Table, axis: Hashable) -> Table:
    """Return the sum of the weights along an axis."""
    place = table.axes.index(axis)
    return Table(log_sum_exp(table.log, place), (*table.axes[:place], *table.axes[place + 1 :]))


def multiplied(table: Table, axis: Hashable) -> Table:
    """Return the product of the weights along an axis."""
    place = table.axes.index(axis)
    return Table(table.log.sum(place), (*table.axes[:place], *table.axes[place + 1 :]))


def log_sum_exp(log: Tensor, dim: int) -> Tensor:
    """Return the logarithm of a sum along a dimension, whose derivative is 0 where the sum is.

    >>> x = torch.full((2,), -torch.inf, requires_grad=True)
    >>> y = log_sum_exp(x, 0)
    >>> y.item(), torch.autograd.grad(y, x)[0]
    (-inf, tensor([0., 0.]))
    """
    plain, found = untrack(log), provenance(log)
    top = plain.detach().amax(dim, keepdim=True)
    top = torch.where(top.isfinite(), top, 0)
    total = log_of((plain - top).exp().sum(dim)) + top.squeeze(dim)
    # One step, of which no part is its own term.
    left = tuple(d for d in range(plain.dim()) if d != dim % plain.dim())
    moved = None if found is None else found.remap(tuple(total.shape), left)
    return total if moved is None else attach(total, moved)


def log_of(weight: Tensor) -> Tensor:
    """Return the logarithm of weights, whose derivative is 0 where they are.

    >>> x = torch.tensor([0.0, 1.0], requires_grad=True)
    >>> torch.autograd.grad(log_of(x).exp().sum(), x)[0]
    tensor([0., 1.])
    """
    is_zero = weight.detach() == 0
    return torch.where(is_zero, -torch.inf, torch.where(is_zero, 1, weight).log())
