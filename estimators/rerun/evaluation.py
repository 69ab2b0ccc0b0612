"""Evaluation: what a run of a program with another value of a site gives, and its derivatives."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Part


class Slope(NamedTuple):
    """The derivative of a sum of costs by the value of the site, [*shape, *event].

    `apart` are the dimensions of the site along which each cost depends on one element only.
    """

    value: Tensor
    apart: frozenset[int]


SlopeOf = Literal["loss", "credits"] | None
"""The costs to differentiate by the value of a site: the loss, the parts of its credit, or none."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a run with another value of a site gives.

    Attributes:
        credit: that of each element, [*shape].
        slope: the derivative by the value where it was asked for, [*shape, *event]; else zero.
        slopes: what it is the sum of.
    """

    credit: Tensor
    slope: Tensor
    slopes: tuple[Slope, ...] = ()

    def change(self, step: Tensor) -> Tensor:
        """Return how the credits change with a step of the value, to first order: [*shape].

            d[n] = Σ_slopes Σ_m slope[m] · step[m],   over m that have those costs in common with n

        A cost of one element alone is in the credit of no other, and does not change it.

        Args:
            step: [*shape, *event].
        """
        shape = self.credit.shape
        found = torch.zeros_like(self.credit)
        for slope in self.slopes:
            part = (slope.value * step).reshape(*shape, -1).sum(-1)
            for dim in range(len(shape)):
                if dim not in slope.apart:
                    part = part.sum(dim, keepdim=True)
            found = found + part
        return found


def evaluation_of(credit: Tensor, parts: Iterable[Part], leaf: Tensor) -> Evaluation:
    """Return an evaluation, given the costs to differentiate and the value of the site."""
    slopes = tuple(
        Slope(_derivative(part.value.sum(), leaf), part.apart)
        for part in parts
        if part.value.requires_grad
    )
    total = sum((slope.value for slope in slopes), torch.zeros_like(leaf.detach()))
    return Evaluation(credit, total, slopes)


def _derivative(of: Tensor, leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(of, [leaf], retain_graph=True, materialize_grads=True)
    return found
