"""Variances of one site against its estimator written out: no run of a program, no provenance.

The means of all unbiased estimators are one; that each is what its name says shows in the variance.
"""

import math
from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, OneHotCategorical, Poisson

from ancestral.estimators import (
    REBAR,
    RELAX,
    RLOO,
    DoubleCV,
    MeasureValued,
    MuProp,
    SmoothedPerturbation,
    SumAndSample,
    UnorderedSet,
)
from ancestral.estimators.rerun.estimate import Chosen, Plan
from ancestral.estimators.rerun.moments import Moments, moments_of

LOGITS = [0.4, -0.7, 0.2, 1.1]
COSTS = [1.3, -0.4, 0.9, 2.0]
Ways = Sequence[tuple[float, np.ndarray]]
"""The estimates, each with its probability."""


def leaf(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def moments(ways: Ways) -> tuple[np.ndarray, float]:
    """Return the mean of an estimate, and the sum of the variances of its elements."""
    weights, values = np.array([w for w, _ in ways]), np.stack([v for _, v in ways])
    assert weights.sum() == pytest.approx(1.0)
    mean = weights @ values
    return mean, float((weights @ (values - mean) ** 2).sum())


def agree(found: Moments, ways: Ways, rel: float = 1e-8) -> None:
    mean, variance = moments(ways)
    np.testing.assert_allclose(found.mean.numpy(), mean, rtol=rel, atol=1e-12)
    assert float(found.variance.sum()) == pytest.approx(variance, rel=rel, abs=1e-12)


def of_classes(estimator: Chosen) -> Moments:
    theta, costs = leaf(*LOGITS), torch.tensor(COSTS, dtype=torch.float64)

    def program() -> Tensor:
        return costs[Categorical(logits=theta).sample()]

    return moments_of(program, Plan(estimator, None), [theta])


Q = np.exp(LOGITS) / np.exp(LOGITS).sum()
F = np.array(COSTS)
SCORES = np.eye(4) - Q
"""The gradient of log q(v) by the logits, for each v."""


def test_the_score_function() -> None:
    agree(of_classes("score"), [(Q[v], F[v] * SCORES[v]) for v in range(4)])


@pytest.mark.parametrize("count", [2, 3])
def test_leave_one_out(count: int) -> None:
    def estimate(draws: tuple[int, ...]) -> Any:
        f = F[list(draws)]
        less = (f.sum() - f) / (count - 1)
        return ((f - less)[:, None] * SCORES[list(draws)]).mean(0)

    ways = [(float(np.prod(Q[list(d)])), estimate(d)) for d in product(range(4), repeat=count)]
    agree(of_classes(RLOO(count)), ways)


@pytest.mark.parametrize("top", [1, 2, 3])
def test_sum_and_sample(top: int) -> None:
    likely = set(np.argsort(-Q)[:top].tolist())
    summed = sum(F[v] * Q[v] * SCORES[v] for v in likely)
    rest = 1 - sum(Q[v] for v in likely)
    ways = [(Q[v] / rest, summed + rest * F[v] * SCORES[v]) for v in range(4) if v not in likely]
    agree(of_classes(SumAndSample(top)), ways)


def test_sets_of_two_without_replacement() -> None:
    ways = []
    for s, t in combinations(range(4), 2):
        of_set = Q[s] * Q[t] * (1 / (1 - Q[s]) + 1 / (1 - Q[t]))
        rise = (F[s] - F[t]) * Q[s] * Q[t] / of_set
        ways.append((of_set, rise * (SCORES[s] - SCORES[t])))
    agree(of_classes(UnorderedSet(2)), ways)


def test_the_set_of_all_has_no_variance() -> None:
    found = of_classes(UnorderedSet(4))
    np.testing.assert_allclose(found.mean.numpy(), (F * Q) @ SCORES)
    assert float(found.variance.sum()) < 1e-20


def test_smoothed_perturbation() -> None:
    by_class = Q[:, None] * SCORES  # ∇q(v)
    below = by_class.cumsum(0)  # ∇Q(v)
    ways: list[tuple[float, Any]] = []
    for z in range(4):
        up = (F[z] - F[z + 1]) / (Q[z] + Q[z + 1]) * below[z] if z < 3 else 0
        down = (F[z - 1] - F[z]) / (Q[z - 1] + Q[z]) * below[z - 1] if z else 0
        ways.append((Q[z], up + down))
    agree(of_classes(SmoothedPerturbation()), ways)


def test_measure_valued_of_classes() -> None:
    """By normalized logits f(z) drops out of Σ_v p_v (f(v) - f(z)) ∇φ_v."""
    agree(of_classes(MeasureValued()), [(1.0, Q * (F - Q @ F))])


def test_measure_valued_of_a_count() -> None:
    rate = leaf(0.8)

    def program() -> Any:
        return (Poisson(rate).sample() ** 2).sum()

    counts = np.arange(40)
    probs = np.exp(-0.8 + counts * math.log(0.8) - [math.lgamma(n + 1) for n in counts])
    ways = [(p, np.array([2.0 * n + 1])) for n, p in zip(counts, probs, strict=True)]
    agree(moments_of(program, Plan(MeasureValued(), None), [rate]), ways)


def test_measure_valued_of_the_square_of_a_normal() -> None:
    loc = leaf(0.7)

    def program() -> Any:
        return (Normal(loc, 1.3).sample() ** 2).sum()

    found = moments_of(program, Plan(MeasureValued(), None), [loc], nodes=4)
    assert float(found.mean) == pytest.approx(2 * 0.7)
    # 4 μ r / √(2π), r of Rayleigh, whose variance is 2 - π/2
    assert float(found.variance) == pytest.approx(16 * 0.49 / (2 * math.pi) * (2 - math.pi / 2))


P, TARGET = 1 / (1 + math.exp(-0.6)), 0.3


def cost(z: float | np.ndarray) -> np.ndarray:
    return np.asarray((z - TARGET) ** 3 + 0.4 * z)


def slope(z: float | np.ndarray) -> np.ndarray:
    return np.asarray(3 * (z - TARGET) ** 2 + 0.4)


def of_a_bit(estimator: Chosen, nodes: int = 16) -> Moments:
    theta = leaf(0.6)

    def program() -> Any:
        z = Bernoulli(logits=theta).sample()
        return ((z - TARGET) ** 3 + 0.4 * z).sum()

    return moments_of(program, Plan(estimator, None), [theta], nodes=nodes)


def of(bit: int) -> float:
    return P if bit else 1 - P


def test_the_linear_part_at_the_mean() -> None:
    def estimate(z: int) -> np.ndarray:
        left = cost(z) - cost(P) - slope(P) * (z - P)
        return np.array([left * (z - P) + slope(P) * P * (1 - P)])

    agree(of_a_bit(MuProp()), [(of(z), estimate(z)) for z in (0, 1)])


@pytest.mark.parametrize("count", [2, 3])
def test_double_control_variates(count: int) -> None:
    def estimate(draws: tuple[int, ...]) -> np.ndarray:
        z, parts = np.array(draws), []
        g = (slope(z).sum() - slope(z)) / (count - 1)
        h = cost(z) - g * (z - P)
        for k in range(count):
            left = h[k] - np.delete(h, k).mean()
            parts.append(left * (z[k] - P) + g[k] * P * (1 - P))
        return np.array([np.mean(parts)])

    ways = [(math.prod(map(of, draws)), estimate(draws)) for draws in product((0, 1), repeat=count)]
    agree(of_a_bit(DoubleCV(count)), ways)


X, W = np.polynomial.legendre.leggauss(400)
T = 2.9 * X  # tanh-sinh: what is integrated may have logarithms at the ends
V = 1 / (1 + np.exp(-np.pi * np.sinh(T)))
WEIGHTS = 2.9 * W * np.pi * np.cosh(T) * V * (1 - V)


def relaxed(bit: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the relaxed draw given a bit before it is squashed, and its derivative by the logit.

    u = v p + q for a one, v q for a zero;   z̃ = φ + log u - log(1 - u)
    """
    p, q = P, 1 - P
    if bit:
        u, rest, by_u, by_rest = V * p + q, (1 - V) * p, (V - 1) * p * q, (1 - V) * p * q
    else:
        u, rest, by_u, by_rest = V * q, p + (1 - V) * q, -V * p * q, V * p * q
    return 0.6 + np.log(u) - np.log(rest), 1 + by_u / u - by_rest / rest


def controlled(
    value: Callable[[np.ndarray], np.ndarray], by: Callable[[np.ndarray], np.ndarray]
) -> Ways:
    """Return the estimates with a control variate c(z̃), given c and its derivative."""
    ways = []
    for bit in (0, 1):
        before, by_logit = relaxed(bit)
        found = (cost(bit) - value(before)) * (bit - P) + by(before) * (1 - by_logit)
        ways += [(of(bit) * w, np.array([g])) for w, g in zip(WEIGHTS, found, strict=True)]
    return ways


@pytest.mark.parametrize(("temperature", "scale"), [(1.0, 1.0), (0.7, 0.4)])
def test_rebar(temperature: float, scale: float) -> None:
    def soft(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z / temperature))

    def by(z: np.ndarray) -> Any:
        return scale * slope(soft(z)) * soft(z) * (1 - soft(z)) / temperature

    ways = controlled(lambda z: scale * cost(soft(z)), by)
    assert moments(ways)[0][0] == pytest.approx((cost(1) - cost(0)) * P * (1 - P), rel=1e-10)
    agree(of_a_bit(REBAR(temperature, scale), 60), ways)


def test_relax() -> None:
    ways = controlled(lambda z: 0.3 * np.tanh(z), lambda z: 0.3 / np.cosh(z) ** 2)
    agree(of_a_bit(RELAX(lambda y: 0.3 * y.tanh().sum()), 60), ways)


def test_relax_of_a_one_hot_draw_has_the_variance_of_its_formula() -> None:
    """Of two classes, by quadrature of both noises."""
    theta = leaf(0.3, -0.5)
    f = np.array([1.0, 0.25])

    def program() -> Any:
        z = OneHotCategorical(logits=theta).sample()
        return (z * torch.tensor([1.0, -0.5], dtype=torch.float64)).sum() ** 2

    found = moments_of(program, Plan(RELAX(lambda y: 0.0 * y.sum()), None), [theta], nodes=3)
    q = np.exp([0.3, -0.5]) / np.exp([0.3, -0.5]).sum()
    agree(found, [(q[v], f[v] * (np.eye(2)[v] - q)) for v in (0, 1)])
