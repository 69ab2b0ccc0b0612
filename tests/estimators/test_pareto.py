"""Pareto smoothing, against ArviZ on the same weights."""

import math
import warnings

import pytest
import torch

from ancestral.estimators.pareto import generalized_pareto, pareto_smoothed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
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
