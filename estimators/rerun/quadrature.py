"""Quadrature of one continuous number: a Gaussian rule for all of its range, or panels of it.

A draw is a function of a number of a standard distribution, such as a standard normal one, or a
uniform one by the inverse distribution function. A `Measure` is that distribution: its Gaussian
rule, and a coordinate along which its range can be cut into panels. On these the rule of Kronrod
has an independent one within it, whose difference tells its error.

>>> low, high, points, weights, other = NORMAL.low, NORMAL.high, *kronrod()
>>> t = (low + high) / 2 + (high - low) / 2 * points
>>> mass = [float((high - low) / 2 * w @ NORMAL.density(t)) for w in (weights, other)]
>>> [round(each, 2) for each in mass]
[1.01, 1.5]
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.polynomial import hermite_e, legendre
from torch import Tensor
from torch.distributions import Exponential, Gamma, Normal, Uniform

from ancestral.provenance.tensor.tensor import raw, untrack
from ancestral.provenance.tensor.torch_internals import standard_gamma_grad

Rule = Callable[[int], tuple[Tensor, Tensor]]
"""Returns so many nodes and their weights, whose sum is 1."""


@dataclass(frozen=True, eq=False)
class Measure:
    """A distribution of one number.

    Attributes:
        rule: its Gaussian rule.
        low: where the coordinate begins.
        high: where it ends.
        point: returns the number at a coordinate.
        density: returns the density of the coordinate.
    """

    rule: Rule
    low: float
    high: float
    point: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Tensor]


def _itself(t: Tensor) -> Tensor:
    return t


def _hermite(nodes: int) -> tuple[Tensor, Tensor]:
    points, weights = hermite_e.hermegauss(nodes)
    return torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


def _legendre(nodes: int) -> tuple[Tensor, Tensor]:
    points, weights = legendre.leggauss(nodes)
    return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)


def _normal_density(t: Tensor) -> Tensor:
    return (-(t**2) / 2).exp() / math.sqrt(2 * math.pi)


def _uniform(t: Tensor) -> Tensor:
    return torch.sigmoid(torch.pi * t.sinh())


def _uniform_density(t: Tensor) -> Tensor:
    return torch.pi * t.cosh() * _uniform(t) * _uniform(-t)


def _tanh_sinh(nodes: int) -> tuple[Tensor, Tensor]:
    """Return nodes that allow for singularities at the ends.

    Takahasi and Mori (1974), "Double exponential formulas for numerical integration".
    """
    t = torch.linspace(-3.0, 3.0, nodes + 2, dtype=torch.double)[1:-1]
    weights = _uniform_density(t)
    return _uniform(t), weights / weights.sum()


NORMAL = Measure(_hermite, -9.0, 9.0, _itself, _normal_density)
UNIFORM = Measure(_legendre, -4.0, 4.0, _uniform, _uniform_density)
"""Between 0 and 1."""
OPEN_UNIFORM = Measure(_tanh_sinh, -4.0, 4.0, _uniform, _uniform_density)
"""The same, for functions with singularities at the ends."""


@lru_cache(maxsize=64)
def gamma(shape: float) -> Measure:
    """Return the distribution of density x^(shape - 1) exp(-x) / Γ(shape), by log x."""
    drop = 40 / shape  # of the log-density at the ends, below where it is largest
    wide, middle = drop + math.sqrt(2 * drop), math.log(shape)

    def density(t: Tensor) -> Tensor:
        return (shape * t - t.exp() - math.lgamma(shape)).exp()

    return Measure(
        lambda nodes: _laguerre(nodes, shape - 1),
        middle - wide,
        middle + math.log1p(wide),
        torch.exp,
        density,
    )


def _laguerre(nodes: int, power: float) -> tuple[Tensor, Tensor]:
    """Return the rule for the density x^power exp(-x)."""
    k = np.arange(nodes)
    return of_recurrence(2 * k + power + 1, np.sqrt(k[1:] * (k[1:] + power)))


def measures_of(fn: Any, *, is_mirrored: bool) -> list[Measure]:
    """Return what each element of a continuous distribution is a function of, flat.

    What is to be mirrored is a function of a symmetric number.
    """
    if type(fn) is Gamma and not is_mirrored:
        return [gamma(each) for each in untrack(fn.concentration).reshape(-1).tolist()]
    found = UNIFORM if type(fn) is Uniform else OPEN_UNIFORM
    if type(fn) is Normal:
        found = NORMAL
    elif type(fn) is Exponential and not is_mirrored:
        found = gamma(1.0)
    return [getattr(fn, "measure", found)] * fn.batch_shape.numel()


def moved(fn: Any, points: Tensor, *, is_mirrored: bool) -> Tensor:
    """Return the values of the elements, [*batch], of numbers of their measures; differentiable.

    Raises:
        NotImplementedError: if there is no inverse distribution function, where one is needed.
    """
    if hasattr(fn, "measure"):
        return points
    if type(fn) is Normal:
        return untrack(fn.loc) + untrack(fn.scale) * points
    if type(fn) is Exponential and not is_mirrored:
        return points / untrack(fn.rate)
    if type(fn) is Gamma and not is_mirrored:
        shape = untrack(fn.concentration)
        by_shape: Any = standard_gamma_grad(shape.detach(), points)
        found: Tensor = (points + by_shape * (shape - shape.detach())) / untrack(fn.rate)
        return found
    info = torch.finfo(points.dtype)
    found = untrack(raw(fn.icdf, points.clamp(info.eps, 1 - info.eps)))
    return found


def of_recurrence(diagonal: Any, beside: Any) -> tuple[Tensor, Tensor]:
    """Return the rule of the orthogonal polynomials of a recurrence.

    Golub and Welsch (1969), "Calculation of Gauss quadrature rules".
    """
    matrix = np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)
    values, vectors = np.linalg.eigh(matrix)
    return torch.from_numpy(values), torch.from_numpy(vectors[0] ** 2)


@lru_cache(maxsize=1)
def kronrod(nodes: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    """Return the nodes between -1 and 1, 2 n + 1, of Kronrod's rule for that of Gauss, n odd.

    Beside the nodes their weights, and the weights of Gauss, 0 where it has no node. What is added
    are the zeros of Stieltjes' polynomial E, for which P E is orthogonal to all of lower degree, P
    of Legendre. Kronrod (1965), "Nodes and weights of quadrature formulas".
    """
    x, w = legendre.leggauss(2 * nodes + 2)
    rows = legendre.legvander(x, nodes + 1)
    lower, odd = np.arange(0, nodes + 1, 2), np.arange(1, nodes + 1, 2)
    products = rows[:, odd].T @ (w[:, None] * rows[:, [nodes]] * rows)
    series = np.zeros(nodes + 2)
    series[lower] = np.linalg.solve(products[:, lower], -products[:, nodes + 1])
    series[nodes + 1] = 1
    inner, of_gauss = legendre.leggauss(nodes)
    points = np.concatenate([inner, legendre.legroots(series)])
    integrals = 2.0 * (np.arange(len(points)) == 0)
    weights = np.linalg.solve(legendre.legvander(points, len(points) - 1).T, integrals)
    order = np.argsort(points)
    other = np.concatenate([of_gauss, np.zeros(nodes + 1)])
    found = (torch.from_numpy(each[order]) for each in (points, weights, other))
    a, b, c = found
    return a, b, c
