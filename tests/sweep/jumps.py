"""Jumps: the ops whose values change by other than the integral of their derivative.

Along a segment between two points, what a function without jumps changes by is the integral of its
derivative. The cell of a grid where the two differ most is looked at more and more closely: at a
jump, or where autograd has another derivative, the difference stays; else it vanishes, or grows
without bound at a pole.
"""

from collections.abc import Container, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import provenance, untrack
from perturbation import dense
from sweep.calls import Call, copied
from sweep.checks import Sources

_CELLS, _LEVELS = 24, 4
_REACH = 3.0  # the length of a step of one element
_LEAST = 1e-3  # of what the values change by in all


class _Segment:
    """A call on the way from its own arguments to random ones."""

    def __init__(self, call: Call, moved: Container[int]) -> None:
        generator = torch.Generator().manual_seed(1)
        self.call = call
        self.steps = [
            _REACH * torch.randn(t.shape, generator=generator, dtype=t.dtype)
            if n in moved and t.is_floating_point()
            else None
            for n, t in enumerate(call.tensors)
        ]

    def total(self, at: Tensor, *, is_learned: bool) -> Tensor:
        """Return a weighted sum of the results, of those with a gradient if it `is_learned`."""
        given = [
            copied(t) if step is None else t.detach() + at * step
            for t, step in zip(self.call.tensors, self.steps, strict=True)
        ]
        found = torch.zeros((), dtype=torch.float64)
        for result in map(untrack, self.call.run(given).tensors):
            if is_kind(result) and (result.requires_grad or not is_learned):
                flat = dense(result) if result.layout != torch.strided else result
                flat = torch.view_as_real(flat) if flat.is_complex() else flat
                weights = torch.linspace(0.5, 1.5, flat.numel(), dtype=flat.dtype)
                found = found + (flat.flatten() * weights).sum()
        return found

    def slope(self, at: float) -> float:
        """Return the derivative along the segment, zero where there is none."""
        leaf = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        total = self.total(leaf, is_learned=True)
        if not total.requires_grad:
            return 0.0
        (found,) = torch.autograd.grad(total, leaf, materialize_grads=True)
        return float(found)

    def errors(self, start: float, end: float) -> tuple[list[float], list[float]]:
        """Return the values on a grid, and by how much each change differs from its integral."""
        width = (end - start) / _CELLS
        with torch.no_grad():
            places = [torch.tensor(start + k * width).double() for k in range(_CELLS + 1)]
            values = [float(self.total(at, is_learned=False)) for at in places]
        slopes = [self.slope(start + (k + 0.5) * width) for k in range(_CELLS)]
        changes = [b - a for a, b in pairwise(values)]
        return values, [
            abs(change - slope * width) for change, slope in zip(changes, slopes, strict=True)
        ]


def is_kind(result: Tensor) -> bool:
    """Return whether a result may have a gradient."""
    return result.is_floating_point() or result.is_complex()


def jumps(call: Call, moved: Container[int]) -> bool:
    """Return whether the results of a call jump on the way to other arguments in some places."""
    segment, start, width, found = _Segment(call, moved), 0.0, 1.0, list[float]()
    least = 0.0
    for _ in range(_LEVELS):
        values, errors = segment.errors(start, start + width)
        if not all(map(_is_finite, [*values, *errors])):
            return False
        least = least or _LEAST * (max(values) - min(values)) + 1e-7
        found.append(max(errors))
        if found[-1] < least:
            return False
        width /= _CELLS
        start += errors.index(found[-1]) * width
    return 0.5 * found[-2] < found[-1] < 2 * min(found)


def _is_finite(value: float) -> bool:
    return value - value == 0


def is_marked(call: Call) -> bool:
    """Return whether every result of a tracked call tells of a kink, or values escaped."""
    sources = Sources()
    sources.forget_escapes()
    given = [sources.tracked(n, copied(t)) for n, t in enumerate(call.tensors)]
    universe = sources.universe
    universe.differentiable = {sources.of(n, t) for n, t in enumerate(call.tensors)}
    followed = [provenance(t) for t in call.run(given).tensors if is_kind(t)]
    carried: Sequence[Any] = [p for p in followed if p is not None]
    return bool(sources.escaped) or all(universe.kinked(p.members) for p in carried)
