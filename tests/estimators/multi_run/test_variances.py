"""The exact variances are those of the closed forms, for one bit and for three."""

# torch.distributions has no annotations.
# mypy: disable-error-code="no-any-return"

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

from ancestral.estimators import (
    ARM,
    ARMS,
    RLOO,
    DisARM,
    DoubleCV,
    ExactSum,
    LocalExpectation,
    MuProp,
    total_cost,
)
from ancestral.estimators.rerun.estimate import Chosen, Plan
from ancestral.estimators.rerun.moments import moments_of


def variance(theta: Tensor, target: Tensor, pairs: Tensor, estimator: Chosen) -> float:
    def program() -> Tensor:
        x = Bernoulli(logits=theta).sample()
        return (x - target).pow(2).sum() + (pairs * x[:-1] * x[1:]).sum()

    # Two nodes are exact for ARM, whose square is quadratic in its noise.
    plan = Plan(estimator, None, total_cost)
    return float(moments_of(program, plan, [theta], nodes=2).variance.sum())


def of_one(logit: float, target: float, estimator: Chosen) -> float:
    theta = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.float64)
    return variance(theta, torch.tensor([target], dtype=torch.float64), nothing, estimator)


@pytest.mark.parametrize(("logit", "target"), [(0.0, 0.45), (math.log(9.0), 0.45), (-1.2, 0.3)])
def test_of_one_bit(logit: float, target: float) -> None:
    p = 1 / (1 + math.exp(-logit))
    q, f0, f1 = p * (1 - p), target**2, (1 - target) ** 2
    rise, least = f1 - f0, min(p, 1 - p)
    expected: dict[Chosen, float] = {
        "score": q * ((1 - p) * f1**2 + p * f0**2) - q**2 * rise**2,
        RLOO(2): q * rise**2 * (1 / 2 - q),
        DisARM(): q * rise**2 * (max(p, 1 - p) / 2 - q),
        ARMS(2): q * rise**2 * (max(p, 1 - p) / 2 - q),
        ARM(): rise**2 * (2 * (1 / 8 - (1 / 2 - least) ** 3) / 3) - q**2 * rise**2,
        LocalExpectation(): 0.0,
        ExactSum(): 0.0,
    }
    found = {estimator: of_one(logit, target, estimator) for estimator in expected}
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-12)


def test_of_three_bits() -> None:
    theta = torch.tensor([0.3, -0.8, 0.5], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.45, 0.2, 0.7], dtype=torch.float64)
    pairs = torch.tensor([1.3, -0.7], dtype=torch.float64)
    expected: dict[Chosen, float] = {
        "score": 0.944510,
        RLOO(2): 0.352321,
        DisARM(): 0.235136,
        ARM(): 0.272045,
        LocalExpectation(): 0.051565,
        ExactSum(): 0.0,
    }
    found = {estimator: variance(theta, target, pairs, estimator) for estimator in expected}
    assert found == pytest.approx(expected, abs=1e-6)


def test_more_antithetic_draws_have_less_variance_than_pairs_of_them() -> None:
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.45, 0.2], dtype=torch.float64)
    pairs = torch.tensor([1.3], dtype=torch.float64)
    two, four, independent = (
        variance(theta, target, pairs, each) for each in (DisARM(), ARMS(4), RLOO(4))
    )
    assert four < min(two / 2 + 1e-12, independent) or four < independent
    assert four < two


@pytest.mark.parametrize("estimator", [MuProp(), DoubleCV(2), DoubleCV(3)], ids=repr)
def test_linear_costs_of_single_elements_have_no_part_in_what_slopes_leave(
    estimator: Chosen,
) -> None:
    """What is linear in one element is predicted for it, and is nothing to the others."""
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)

    def found(own: float) -> float:
        def program() -> Tensor:
            x = Bernoulli(logits=theta, validate_args=False).sample()
            return (x.sum() - 0.4) ** 2 + own * (x * torch.tensor([1.0, -2.0])).sum()

        return float(moments_of(program, Plan(estimator), [theta], nodes=2).variance.sum())

    assert found(5.0) == pytest.approx(found(0.0), rel=1e-6)
    assert found(0.0) < variance_of_rloo(theta)


def variance_of_rloo(theta: Tensor) -> float:
    def program() -> Tensor:
        return (Bernoulli(logits=theta).sample().sum() - 0.4) ** 2

    return float(moments_of(program, Plan(RLOO(2)), [theta], nodes=2).variance.sum())
