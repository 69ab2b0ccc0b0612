"""Strided views: the relation of the elements of a view to those of the memory that it shares.

Memory is a row of elements, and a grid a shape that counts them in row-major order. A view is what
torch calls strided; where each of its dimensions runs along one of the grid, or along several, what
one view holds is known of any other.

>>> column = StridedView(1, (3,), (4,))                # t[:, 1] of a tensor t of shape [3, 4]
>>> grid = refined((12,), column)
>>> grid, seen(grid, column)
((3, 4), Alignment(dims=(0,), here=(), there=((1, 1, 2),)))
"""

from itertools import accumulate
from typing import NamedTuple

from ancestral.provenance.algebra.alignment import Alignment, Shape, Window, windows_of
from ancestral.provenance.algebra.factors import LOST, Dim, Factor, Factors, merged, part


class StridedView(NamedTuple):
    """Where the elements of a tensor stand in its memory, counted in elements."""

    offset: int
    shape: Shape
    strides: Shape

    @property
    def is_apart(self) -> bool:
        """Whether no two elements share a place; False where the strides do not show it."""
        reach = 0
        for stride, size in sorted(zip(self.strides, self.shape, strict=True)):
            if size > 1 and stride <= reach:
                return False
            reach += stride * (size - 1)
        return True


def strides_of(grid: Shape) -> Shape:
    """Return how far apart the neighbours along each dimension of a grid are."""
    return tuple(accumulate(grid[:0:-1], int.__mul__, initial=1))[::-1] if grid else ()


def refined(grid: Shape, view: StridedView) -> Shape:
    """Split dimensions of a grid where the elements of a view are that far apart, if it can be."""
    for size, stride in zip(view.shape, view.strides, strict=True):
        for d, unit in enumerate(strides_of(grid)):
            inner = stride // unit
            is_within = size > 1 and 1 < inner < grid[d] and not stride % unit
            if is_within and not grid[d] % inner:
                grid = (*grid[:d], grid[d] // inner, inner, *grid[d + 1 :])
                break
    return grid


class _Layout(NamedTuple):
    """What a view covers of each dimension of a grid, and the factors of each of its dimensions."""

    spans: dict[int, tuple[int, int]]
    factors: tuple[Factors, ...]

    def windows(self, grid: Shape) -> tuple[Window, ...]:
        """Return the windows on a grid."""
        return windows_of({d: span for d, span in self.spans.items() if span != (0, grid[d])})


def _laid(grid: Shape, view: StridedView) -> _Layout | None:
    """Return how a view lies on a grid; None where two of its dimensions meet on one of it."""
    units = strides_of(grid)
    at = [view.offset // unit % size for unit, size in zip(units, grid, strict=True)]
    spans: dict[int, tuple[int, int]] = {}
    factors: list[Factors] = []
    for size, stride in zip(view.shape, view.strides, strict=True):
        along: list[Factor] = []
        left = size if stride else 1
        while left > 1:
            d = next((d for d, unit in enumerate(units) if unit <= stride and grid[d] > 1), -1)
            if d < 0 or d in spans or stride % units[d]:
                return None
            step = stride // units[d]
            is_all = step == 1 and at[d] == 0 and left > grid[d] and not left % grid[d]
            here = grid[d] if is_all else left
            spans[d] = (at[d], at[d] + (here - 1) * step + 1)
            if spans[d][1] > grid[d]:
                return None
            along.insert(0, Factor(d if step == 1 else LOST, here))
            left, stride = left // here, stride * here
        factors.append(tuple(along) or (Factor(LOST, size),))
    for d, index in enumerate(at):
        spans.setdefault(d, (index, index + 1))
    return _Layout(spans, tuple(factors))


def seen(grid: Shape, view: StridedView) -> Alignment | None:
    """Return the relation of a view to the grid of its memory, None where it is not known."""
    laid = _laid(grid, view)
    if laid is None:
        return None
    return Alignment(tuple(map(merged, laid.factors)), there=laid.windows(grid))


def placed(grid: Shape, view: StridedView) -> Alignment | None:
    """Return the relation of the grid of some memory to a view, None where it is not known."""
    laid = _laid(grid, view)
    if laid is None:
        return None
    dims: list[Dim] = [LOST] * len(grid)
    for i, along in enumerate(laid.factors):
        stride = 1
        for factor in reversed(along):
            if factor.dim != LOST:
                dims[factor.dim] = merged([part(i, factor.size, stride, view.shape[i])])
            stride *= factor.size
    return Alignment(tuple(dims), here=laid.windows(grid))
