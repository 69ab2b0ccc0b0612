"""Measure-valued derivatives of counts and continuous draws, against closed forms."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Gamma, Normal, Poisson

import ancestral as an
from ancestral.errors import EstimatorError
from ancestral.estimators import RLOO, MeasureValued
from ancestral.estimators.rerun.estimate import Chosen, Plan
from ancestral.estimators.rerun.moments import moments_of
from ancestral.estimators.rerun.replay import Program


def leaf(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def mean(program: Program, estimator: Chosen, *parameters: Tensor, nodes: int = 4) -> Tensor:
    return moments_of(program, Plan(estimator, None), parameters, nodes=nodes).mean


@pytest.mark.parametrize("estimator", [MeasureValued(), RLOO(2), "score"], ids=repr)
def test_of_a_normal(estimator: Chosen) -> None:
    loc, scale = leaf(0.3), leaf(0.8)

    def program() -> Tensor:
        z = Normal(loc, scale).rsample()
        return z**3 + loc * z

    m, s = 0.3, 0.8  # E[z³] = m³ + 3 m s²,  E[m z] = m²
    expected = torch.tensor([3 * m**2 + 3 * s**2 + 2 * m, 6 * m * s], dtype=torch.float64)
    torch.testing.assert_close(mean(program, estimator, loc, scale), expected)


def test_of_a_step_which_has_no_pathwise_derivative() -> None:
    loc = leaf(0.0)

    def program() -> Tensor:
        return (Normal(loc, 1.0).sample() > 0).to(loc.dtype)  # type: ignore[no-any-return]

    # f(μ + σ r) - f(μ - σ r) = 1: no variance at all.
    found = moments_of(program, Plan(MeasureValued(), None), [loc], nodes=6)
    assert found.mean.item() == pytest.approx(1 / (2 * torch.pi) ** 0.5)
    assert found.variance.item() == pytest.approx(0.0, abs=1e-12)


def test_of_a_vector_of_normals_one_element_at_a_time() -> None:
    loc = torch.tensor([0.3, -0.5], dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        z = Normal(loc, 0.7).sample()
        return z[0] ** 2 * z[1]  # type: ignore[no-any-return]

    m0, m1 = 0.3, -0.5
    expected = torch.tensor([2 * m0 * m1, m0**2 + 0.49], dtype=torch.float64)
    torch.testing.assert_close(mean(program, MeasureValued(), loc, nodes=3), expected)


@pytest.mark.parametrize("estimator", [MeasureValued(), RLOO(2)], ids=repr)
def test_of_a_gamma(estimator: Chosen) -> None:
    rate = leaf(1.6)

    def program() -> Tensor:
        return Gamma(torch.tensor(1.7, dtype=torch.float64), rate).rsample() ** 2

    expected = -2 * 1.7 * 2.7 / 1.6**3  # E[z²] = α (α + 1) / β²
    torch.testing.assert_close(
        mean(program, estimator, rate), torch.tensor([expected], dtype=torch.float64)
    )


@pytest.mark.parametrize("estimator", [MeasureValued()], ids=repr)
def test_of_a_poisson(estimator: Chosen) -> None:
    rate = leaf(0.4)

    def program() -> Tensor:
        z = Poisson(rate).sample()
        return z**2 + (z > 0)  # type: ignore[no-any-return]

    expected = 1 + 2 * 0.4 + torch.tensor([-0.4], dtype=torch.float64).exp()
    torch.testing.assert_close(mean(program, estimator, rate), expected)


def test_a_gamma_whose_concentration_is_learned_is_refused() -> None:
    shape = leaf(1.7)

    def program() -> Tensor:
        return Gamma(shape, 1.0).rsample() ** 2

    with pytest.raises(EstimatorError, match=r"site .*test_measure_valued.*learned concentration"):
        an.estimate(program, estimators=MeasureValued())
