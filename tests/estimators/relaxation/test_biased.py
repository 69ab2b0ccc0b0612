"""The biased estimators are biased as they say, and by how much: against closed forms."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

import ancestral as an
from ancestral.errors import EstimatorError
from ancestral.estimators import (
    GumbelRao,
    GumbelSoftmax,
    ReinMax,
    StraightThrough,
    StraightThroughGumbel,
)
from ancestral.estimators.rerun.estimate import Chosen, Plan
from ancestral.estimators.rerun.moments import Moments, moments_of

THETA = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)
P = torch.sigmoid(THETA.detach())
BIASED = [StraightThrough(), GumbelSoftmax(), StraightThroughGumbel(), GumbelRao(), ReinMax()]


def cubed() -> Tensor:
    return (Bernoulli(logits=THETA).sample() - 0.3).pow(3).sum()  # type: ignore[no-any-return]


def squared() -> Tensor:
    return (Bernoulli(logits=THETA).sample() - 0.3).pow(2).sum()  # type: ignore[no-any-return]


def found(program: object, estimator: Chosen, nodes: int = 40) -> Moments:
    return moments_of(program, Plan(estimator, None), [THETA], nodes=nodes)  # type: ignore[arg-type]


def test_straight_through() -> None:
    slope = P * 3 * 0.7**2 + (1 - P) * 3 * 0.3**2
    torch.testing.assert_close(found(cubed, StraightThrough()).mean, slope * P * (1 - P))


def test_gumbel_softmax_is_the_gradient_of_the_relaxed_loss() -> None:
    temperature = 0.7
    u = (np.arange(200_000) + 0.5) / 200_000  # midpoints
    relaxed = 1 / (1 + np.exp(-(0.4 + np.log(u) - np.log1p(-u)) / temperature))
    by_logit = relaxed * (1 - relaxed) / temperature
    expected = (3 * (relaxed - 0.3) ** 2 * by_logit).mean()
    mean = found(cubed, GumbelSoftmax(temperature)).mean
    assert mean.item() == pytest.approx(expected, rel=1e-6)


def test_gumbel_rao_has_the_mean_of_straight_through_gumbel_and_less_variance() -> None:
    one, two = found(cubed, StraightThroughGumbel(0.7), 20), found(cubed, GumbelRao(0.7, 2), 20)
    torch.testing.assert_close(one.mean, two.mean, rtol=1e-8, atol=0)
    assert two.variance < one.variance
    assert two.evaluations == pytest.approx(2)


def test_reinmax_is_exact_for_a_quadratic_loss() -> None:
    exact = P * (1 - P) * (0.7**2 - 0.3**2)
    torch.testing.assert_close(found(squared, ReinMax()).mean, exact)
    assert not torch.allclose(found(cubed, ReinMax()).mean, P * (1 - P) * (0.7**3 + 0.3**3))


def test_reinmax_of_one_hot_draws() -> None:
    theta = torch.tensor([0.4, -0.2, 0.1], dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        z = OneHotCategorical(logits=theta).sample()
        return (z * torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)).sum() ** 2  # type: ignore[no-any-return]

    assert an.verify(program, estimators=ReinMax()).is_unbiased
    assert not an.verify(program, estimators=StraightThrough()).is_unbiased


@pytest.mark.parametrize("estimator", BIASED, ids=repr)
def test_classes_that_are_numbers_are_refused(estimator: Chosen) -> None:
    def program() -> Tensor:
        return Categorical(logits=torch.cat([THETA, THETA])).sample() * 1.0  # type: ignore[no-any-return]

    with pytest.raises(EstimatorError, match="Bernoulli or OneHotCategorical"):
        an.estimate(program, estimators=estimator)


@pytest.mark.parametrize("estimator", BIASED, ids=repr)
def test_a_site_below_may_have_any_other(estimator: Chosen) -> None:
    def program() -> Tensor:
        x = Bernoulli(logits=THETA).sample()
        y = Bernoulli(logits=THETA + x).sample()
        return (x * y).sum()  # type: ignore[no-any-return]

    assert an.estimate(program, estimators={"x": estimator, "y": "auto"}).evaluations == 2


def test_a_temperature_that_makes_no_sense_is_refused() -> None:
    for make in (GumbelSoftmax, StraightThroughGumbel, GumbelRao):
        with pytest.raises(ValueError, match=f"{make.__name__}: temperature"):
            make(0.0)
    with pytest.raises(ValueError, match="samples"):
        GumbelRao(0.5, 0)
