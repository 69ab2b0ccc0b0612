"""Bias: how far the mean of an estimate is from the truth, as a norm with its interval.

The square of the distance between two means is too large by their own variance; what is left over
after that is taken off estimates the squared norm of the bias, and how much it varies follows from
the scatter of the means of blocks of draws:

        T = |m - r|²,   E[T] = |b|² + tr C,   Var[T] = 2 tr C² + 4 b'Cb,   C = Σ/N + Σ_r/N_r

Bai and Saranadasa (1996), "Effect of high dimension: by an example of a two sample problem", with
their estimate of tr Σ², which needs no covariance of all coordinates: the products of the means of
blocks with each other do. The interval holds the norms for which T is no surprise, as a gamma
variable that is moved to have the same three cumulants: Pearson (1959), "Note on an approximation
to the distribution of non-central χ²". Of b'Cb and b'C²b the most is taken that they can be.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

LEVEL = 1e-3
"""How seldom an interval may miss the bias."""


@dataclass(frozen=True)
class Interval:
    """A norm of a bias: what is most likely, and the least and the most that it may be."""

    norm: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Sample:
    """What is known of the mean of n numbers, from blocks of draws.

    Attributes:
        mean: [n].
        scatter: of the mean of each block around that, times the root of its draws, [blocks, n];
            of what is exact, [0, n].
        variance: of one draw, summed over all numbers.
        draws: how many there are.
    """

    mean: Tensor
    scatter: Tensor
    variance: float
    draws: int

    @classmethod
    def exact(cls, mean: Tensor) -> "Sample":
        """Return what is known exactly."""
        return cls(mean, mean.new_zeros(0, len(mean)), 0.0, 1)

    def of(self, index: Tensor, variance: float) -> "Sample":
        """Return what is known of some of the numbers."""
        return Sample(self.mean[index], self.scatter[:, index], variance, self.draws)


def bias_of(sample: Sample, reference: Sample, level: float = LEVEL) -> Interval:
    """Return the norm of the difference of two means, and its interval."""
    distance = float((sample.mean - reference.mean).square().sum())
    trace = sample.variance / sample.draws + reference.variance / reference.draws
    squared = (
        _squared_trace(sample, sample) / sample.draws**2
        + 2 * _squared_trace(sample, reference) / (sample.draws * reference.draws)
        + _squared_trace(reference, reference) / reference.draws**2
    )
    rounding = 1e-12 * float(reference.mean.square().sum() + sample.mean.square().sum())
    norm = max(distance - trace, 0.0) ** 0.5
    if trace <= rounding:
        off = rounding**0.5
        return Interval(distance**0.5, max(distance**0.5 - off, 0.0), distance**0.5 + off)
    # The larger for being estimates: of blocks, or of draws where these say more.
    squared *= _widening(level, len(sample.scatter) - 1)
    squared = min(max(squared, trace**2 / len(sample.mean)), trace**2)
    squared *= _widening(level, sample.draws - 1)
    low = _solved(distance, trace, squared, 1 - level / 2)
    high = _solved(distance, trace, squared, level / 2)
    return Interval(norm, low**0.5, high**0.5)


def _squared_trace(a: Sample, b: Sample) -> float:
    """Return an estimate of tr(Σ_a Σ_b), unbiased for normal means of blocks."""
    blocks, others = len(a.scatter) - 1, len(b.scatter) - 1
    if min(blocks, others) < 1:
        return 0.0
    gram = float((a.scatter @ b.scatter.T).square().sum())
    if a is not b:
        return gram / (blocks * others)
    trace = float(a.scatter.square().sum()) / blocks
    if blocks < 2:
        return trace**2
    return blocks**2 / ((blocks + 2) * (blocks - 1)) * (gram / blocks**2 - trace**2 / blocks)


def _widening(level: float, degrees: int) -> float:
    """Return by how much tr C² is to be larger where a variance has so many degrees of freedom.

    By the quantiles of Student's distribution for those of a normal one: a width goes with the
    fourth root. Abramowitz and Stegun (1964), 26.7.5.
    """
    z = NormalDist().inv_cdf(1 - level / 2)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    student = z + first / degrees + second / degrees**2 if degrees > 0 else z
    return (student / z) ** 4


def _solved(distance: float, trace: float, squared: float, share: float) -> float:
    """Return the |b|² for which T is at most the distance with a probability, 0 if none is."""

    def below(bias: float) -> float:
        variance = 2 * squared + 4 * bias * squared**0.5
        third = 8 * squared**2 / trace + 24 * bias * squared
        shape = 4 * variance**3 / third**2
        return _gamma(shape + (distance - bias - trace) * (shape / variance) ** 0.5, shape)

    if below(0.0) <= share:
        return 0.0
    low, high = 0.0, distance + trace
    while below(high) > share:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) > share else (low, middle)
    return (low + high) / 2


def _gamma(x: float, shape: float) -> float:
    """Return the probability that a gamma variable of scale 1 is at most x."""
    both: Sequence[Tensor] = [torch.tensor(each, dtype=torch.float64) for each in (shape, x)]
    return float(torch.special.gammainc(*both)) if x > 0 else 0.0
