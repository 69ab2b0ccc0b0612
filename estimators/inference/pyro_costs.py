"""Costs of a step of Pyro: what each site adds to its loss, and their sum."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ancestral.estimators.credit.declared_costs import non_finite_density
from ancestral.estimators.gradient.problem import Cost
from ancestral.provenance.tensor.tensor import Unseen
from ancestral.trace.nodes.node import Node


class Density(NamedTuple):
    """What a site adds to the loss: its log-probability, tracked and plain, with a sign."""

    value: Tensor
    plain: Tensor
    sign: int
    node: Node | None
    program: str


def counted(density: Density, particles: int) -> Cost:
    """Return a density as a cost of the loss, which is a mean of particles."""
    weight, plain = density.sign / particles, density.plain
    with Unseen():
        return Cost(density.value, weight, plain if weight == 1 else plain * weight)


def total_of(values: Sequence[Tensor]) -> Tensor:
    """Return the sum of all elements, []."""
    with Unseen():
        parts = [each if each.ndim == 0 else each.sum() for each in values]
        return torch.stack(parts).sum() if parts else torch.zeros(())


def refuse_non_finite(densities: Sequence[Density], loss: Tensor) -> None:
    """Raise a NonFiniteDensityError if a log-probability is NaN or infinite."""
    if bool(torch.isfinite(loss)):
        return
    for each in densities:
        if each.node is not None and not bool(torch.isfinite(each.plain).all()):
            raise non_finite_density(each.node, each.program)
