"""Values that cannot come up are not tried, and probabilities near 0 and 1 give finite numbers."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

import ancestral as an
from ancestral.errors import EstimatorError
from ancestral.estimators import (
    ARM,
    ARMS,
    REBAR,
    RLOO,
    DisARM,
    ExactSum,
    LocalExpectation,
    MeasureValued,
    MuProp,
    SmoothedPerturbation,
    SumAndSample,
    UnorderedSet,
)

MASK = torch.tensor([0.0, -torch.inf, 0.0, 0.0], dtype=torch.float64)


def masked(theta: Tensor) -> Tensor:
    z = Categorical(logits=theta + MASK).sample()
    assert z != 1, "a class that is masked"
    return (z - 1.3) ** 2 * theta[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "estimator",
    [
        RLOO(2),
        LocalExpectation(),
        ExactSum(),
        MeasureValued(),
        SmoothedPerturbation(),
        *(SumAndSample(top) for top in (1, 2, 3, 4)),
    ],
    ids=repr,
)
def test_a_class_that_is_masked_is_not_tried(estimator: object) -> None:
    theta = torch.tensor([0.4, 0.1, -0.3, 0.2], dtype=torch.float64, requires_grad=True)
    found = an.verify(masked, theta, estimators=estimator)  # type: ignore[arg-type]
    assert bool(found["theta"].mean.isfinite().all())
    assert found.is_unbiased


def test_a_set_of_a_site_with_masked_classes_is_refused() -> None:
    theta = torch.tensor([0.4, 0.1, -0.3, 0.2], dtype=torch.float64, requires_grad=True)
    with pytest.raises(EstimatorError, match="a value that is not"):
        an.estimate(masked, theta, estimators=UnorderedSet())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-200.0, -40.0, 0.0, 40.0, 200.0])
@pytest.mark.parametrize(
    "estimator",
    [
        DisARM(),
        ARM(),
        ARMS(4),
        RLOO(2),
        LocalExpectation(),
        ExactSum(),
        MuProp(),
        REBAR(),
        SumAndSample(),
        MeasureValued(),
        SmoothedPerturbation(),
    ],
    ids=repr,
)
def test_likely_bits_have_finite_estimates(
    estimator: object, logit: float, dtype: torch.dtype
) -> None:
    theta = torch.full((50,), logit, dtype=dtype, requires_grad=True)

    def program() -> Tensor:
        return (Bernoulli(logits=theta).sample() - 0.45).pow(2).sum()  # type: ignore[no-any-return]

    torch.manual_seed(0)
    found = an.estimate(program, estimators=estimator, check=False)  # type: ignore[arg-type]
    (grad,) = torch.autograd.grad(found.surrogate, [theta])
    assert bool(grad.isfinite().all())
    assert abs(logit) < 30 or float(grad.abs().max()) < 1e-6


@pytest.mark.parametrize("estimator", [UnorderedSet(3), REBAR(), SumAndSample(2)], ids=repr)
def test_likely_classes_have_finite_estimates(estimator: object) -> None:
    theta = torch.tensor([40.0, 0.0, -5.0, -30.0], requires_grad=True)

    def program() -> Tensor:
        z = OneHotCategorical(logits=theta.expand(30, 4)).sample()
        return (z * torch.tensor([0.3, -1.0, 0.5, 2.0])).sum(-1).pow(2).mean()  # type: ignore[no-any-return]

    found = an.estimate(program, estimators=estimator, check=False)  # type: ignore[arg-type]
    (grad,) = torch.autograd.grad(found.surrogate, [theta])
    assert bool(grad.isfinite().all())
    assert float(grad.abs().max()) < 1e-6
