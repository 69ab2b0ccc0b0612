"""Pareto smoothing, against ArviZ on the same weights."""

import math
import warnings

import pytest
import torch
from torch import Tensor

from ancestral.estimators.inference.importance import generalized_pareto, pareto_smoothed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of arviz and what it imports
    import arviz
    from arviz.stats.stats import _gpdfit


@pytest.mark.parametrize("samples", [10, 30, 100, 1000])
@pytest.mark.parametrize("width", [0.1, 1.0, 4.0])
def test_weights_and_shape_are_those_of_arviz(samples: int, width: float) -> None:
    torch.manual_seed(0)
    log_weights = width * torch.randn(samples, dtype=torch.float64)
    expected, k = arviz.psislw(log_weights.numpy().copy())  # type: ignore[no-untyped-call] # of ArviZ
    smoothed, found = pareto_smoothed(log_weights)
    assert found == pytest.approx(float(k), abs=1e-9)
    torch.testing.assert_close(smoothed, torch.as_tensor(expected))


def test_the_fit_is_that_of_arviz() -> None:
    torch.manual_seed(0)
    tail = torch.rand(60, dtype=torch.float64).pow(-0.7).sub(1).sort().values
    expected = _gpdfit(tail.numpy())  # type: ignore[no-untyped-call] # of ArviZ
    assert generalized_pareto(tail) == pytest.approx(expected, abs=1e-9)


def test_nothing_is_said_of_equal_weights() -> None:
    smoothed, k = pareto_smoothed(torch.zeros(100))
    assert k == math.inf
    torch.testing.assert_close(smoothed.exp(), torch.full((100,), 0.01, dtype=torch.float64))


def weights(seed: int) -> Tensor:
    """Return some log weights: few or many, flat or wild, bounded, rounded, zero, imprecise."""
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, 400, (), generator=generator))
    width = 10 ** float(4 * torch.rand((), generator=generator) - 2)
    found = width * torch.randn(size, generator=generator, dtype=torch.float64)
    if seed % 5 == 1:
        found[torch.rand(size, generator=generator) < 0.3] = -math.inf
        found[0] = 0.0
    if seed % 5 == 2:
        found = found.round()  # ties
    if seed % 5 == 3:
        found = found.float()
    if seed % 5 == 4:
        found = -(found.clamp(-5, 3).exp())  # bounded, and crowded at the bound
    return found


@pytest.mark.parametrize("seed", range(100))
def test_all_sorts_of_weights_are_those_of_arviz(seed: int) -> None:
    log_weights = weights(seed)
    expected, k = arviz.psislw(log_weights.double().numpy().copy())  # type: ignore[no-untyped-call] # of ArviZ
    smoothed, found = pareto_smoothed(log_weights)
    # ArviZ subtracts exponentials that are nearly equal.
    assert found == pytest.approx(float(k), rel=1e-6, abs=1e-6)
    # Which of equal weights comes first is nobody's choice.
    torch.testing.assert_close(smoothed.sort().values, torch.as_tensor(expected).sort().values)
    assert float(smoothed.logsumexp(0)) == pytest.approx(0, abs=1e-9)


def test_weights_that_differ_by_rounding_only_have_a_finite_shape() -> None:
    torch.manual_seed(0)
    for width in (1e-8, 1e-16, 1e-200):
        smoothed, k = pareto_smoothed(width * torch.randn(300, dtype=torch.float64))
        assert abs(k) < 0.3  # where ArviZ has weights that are no numbers
        torch.testing.assert_close(smoothed.exp(), torch.full((300,), 1 / 300).double())


def test_a_huge_range_leaves_nothing_to_fit() -> None:
    log_weights = torch.linspace(-1e5, 1e5, 200, dtype=torch.float64)
    smoothed, k = pareto_smoothed(log_weights)
    assert k == math.inf
    torch.testing.assert_close(smoothed, torch.log_softmax(log_weights, 0))


def test_a_tail_that_no_distribution_fits_is_left_as_it_is() -> None:
    top = torch.tensor([-700.0, -690, -680, -670, -660, 0.0], dtype=torch.float64)
    log_weights = torch.cat([torch.full((24,), -1e4, dtype=torch.float64), top])
    smoothed, k = pareto_smoothed(log_weights)
    assert k > 0.7
    assert not bool(smoothed.isnan().any())


@pytest.mark.parametrize("size", [1, 2, 4, 5, 20])
def test_few_weights_are_not_smoothed(size: int) -> None:
    log_weights = torch.arange(float(size))
    smoothed, k = pareto_smoothed(log_weights)
    assert k == math.inf
    torch.testing.assert_close(smoothed, torch.log_softmax(log_weights.double(), 0))
