"""Draws of normals at chosen noises, and integrals over the noise that are exact to rounding.

What a person writes by hand is a function of the draws as each term is to see them: live where it
is pathwise, held fixed where it is scored, and then times a likelihood ratio.
"""

import itertools
import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an

THETA, SCALE = (0.3, 0.7), 0.8
NOISES = (-2.3, -1.1, -0.45, -0.2, 0.1, 0.9, 1.7)


def leaf() -> Tensor:
    return torch.tensor(THETA, dtype=torch.float64, requires_grad=True)


def double(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def box(density: Tensor) -> Tensor:
    """Return one, with the derivatives of a likelihood ratio: DiCE's box."""
    return torch.exp(density - density.detach())


@contextmanager
def forced(noises: Sequence[float], coins: Sequence[float] = ()) -> Generator[None]:
    """Let the draws of normals be of these noises in turn, and those of coins these outcomes."""
    left, faces = list(noises), list(coins)

    def rsample(self: Normal, shape: object = ()) -> Tensor:
        return self.loc + left.pop(0) * self.scale

    def sample(self: Bernoulli, shape: object = ()) -> Tensor:
        return double(faces.pop(0))

    with (
        mock.patch.object(Normal, "rsample", rsample),
        mock.patch.object(Bernoulli, "sample", sample),
    ):
        yield


def derivatives(scalar: Tensor, theta: Tensor) -> Tensor:
    """Return the first and the second derivatives: [3, 2]."""
    (slope,) = torch.autograd.grad(scalar, theta, create_graph=True)
    rows = [slope]
    for part in slope:
        found = (None,)
        if part.requires_grad:
            found = torch.autograd.grad(part, theta, retain_graph=True, allow_unused=True)  # type: ignore[assignment]
        rows.append(torch.zeros_like(theta) if found[0] is None else found[0])
    return torch.stack(rows).detach()


def nodes(jumps: Sequence[float], points: int = 36) -> Iterator[tuple[float, float]]:
    """Yield noises and their weights; `jumps` are the values at which a program jumps."""
    ends = [-9.0, *((jump - THETA[0]) / SCALE for jump in sorted(jumps)), 9.0]
    at, weights = np.polynomial.legendre.leggauss(
        8 if len(ends) > 9 else min(points, 24) if jumps else points
    )
    for low, high in itertools.pairwise(ends):
        half = (high - low) / 2
        for point, weight in zip(at, weights, strict=True):
            noise = low + half * (point + 1)
            density = math.exp(-noise * noise / 2) / math.sqrt(2 * math.pi)
            yield noise, half * weight * density


def gradient_of(loss: Tensor | an.Trace, theta: Tensor, **options: Any) -> Tensor:
    """Return what one of the two calls accumulates: [2]."""
    if isinstance(loss, an.Trace):
        loss.backward(**options)
    else:
        an.backward(loss, **options)
    assert theta.grad is not None
    return theta.grad.clone()
