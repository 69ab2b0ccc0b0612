"""What an estimator cannot treat is refused: the site, its line, what is expected, what to do."""

import pytest
import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    Dirichlet,
    MultivariateNormal,
    Normal,
    Poisson,
)

import ancestral as an
from ancestral.errors import EstimatorError
from ancestral.estimators import (
    ARM,
    ARMS,
    REBAR,
    RLOO,
    DisARM,
    DoubleCV,
    ExactSum,
    LocalExpectation,
    MeasureValued,
    MuProp,
    SmoothedPerturbation,
    SumAndSample,
    UnorderedSet,
)

THETA = torch.tensor([0.3, 0.5], requires_grad=True)


def of_classes() -> Tensor:
    z = Categorical(logits=THETA).sample()
    return z * 2.0  # type: ignore[no-any-return]


def of_counts() -> Tensor:
    z = Poisson(THETA.exp()).sample()
    return z.sum()  # type: ignore[no-any-return]


def of_numbers() -> Tensor:
    z = Normal(THETA, 1.0).rsample()
    return z.sum() ** 2


def of_simplices() -> Tensor:
    z = Dirichlet(THETA.exp()).rsample()
    return z[0]


def of_many_bits() -> Tensor:
    z = Bernoulli(logits=THETA.repeat(10)).sample()
    return z.sum() ** 2  # type: ignore[no-any-return]


@pytest.mark.parametrize("estimator", [DisARM(), ARM(), ARMS(), REBAR(), MuProp(), DoubleCV()])
def test_an_estimator_of_bits_refuses_classes(estimator: object) -> None:
    name = type(estimator).__name__
    with pytest.raises(
        EstimatorError, match=rf"site 'z' \(.*test_refused.py:\d+\): {name} treats .*Categorical"
    ) as raised:
        an.estimate(of_classes, estimators=estimator)  # type: ignore[arg-type]
    assert "estimators={'z': ...}" in str(raised.value)


@pytest.mark.parametrize("program", [of_counts, of_numbers, of_simplices])
@pytest.mark.parametrize(
    "estimator",
    [LocalExpectation(), ExactSum(), SumAndSample(), UnorderedSet(), SmoothedPerturbation()],
)
def test_an_estimator_of_finite_sites_refuses_others(program: object, estimator: object) -> None:
    with pytest.raises(EstimatorError, match=r"site 'z' .*treats"):
        an.estimate(program, estimators=estimator)  # type: ignore[arg-type]


def test_a_family_without_measure_valued_derivatives_is_refused() -> None:
    with pytest.raises(EstimatorError, match=r"MeasureValued treats .*Poisson.*Dirichlet"):
        an.estimate(of_simplices, estimators=MeasureValued())


def test_too_many_joint_values_are_refused() -> None:
    with pytest.raises(
        EstimatorError, match=r"at most 4096 joint values .*2 values for each of 20"
    ):
        an.estimate(of_many_bits, estimators=ExactSum())


def test_a_set_larger_than_the_site_is_refused() -> None:
    with pytest.raises(EstimatorError, match="at least 3 values"):
        an.estimate(of_classes, estimators=UnorderedSet(3))


def test_a_density_that_is_not_element_by_element_is_one_draw() -> None:
    loc = torch.zeros(2, dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        return MultivariateNormal(loc, torch.eye(2, dtype=torch.float64)).rsample().sum() ** 2

    assert an.estimate(program, estimators=RLOO()).evaluations == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ARMS(9), "from 2 to 8"),
        (lambda: ARMS(1), "from 2 to 8"),
        (lambda: RLOO(1), "greater than 1"),
        (lambda: DoubleCV(1), "greater than 1"),
        (lambda: SumAndSample(0), "greater than 0"),
        (lambda: UnorderedSet(6), "from 2 to 5"),
        (lambda: REBAR(0.0), "greater than 0"),
    ],
)
def test_a_number_that_makes_no_sense_is_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]
