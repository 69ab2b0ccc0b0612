"""Outcomes have the moments of their distributions, and so have the draws of estimators' noise."""

import math
from typing import Any

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Dirichlet,
    Exponential,
    Gamma,
    Geometric,
    Laplace,
    Normal,
    Poisson,
    Uniform,
)

import ancestral as an
from ancestral.errors import EstimatorError, NotEnumerableError, TooManyOutcomesError
from ancestral.estimators.multi_run.measure_valued import DoubleMaxwell, Rayleigh
from ancestral.estimators.relaxation.concrete import OpenUniform
from ancestral.estimators.rerun.outcomes import walked


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def moment(fn: Any, power: int, nodes: int = 12) -> float:
    ways = walked(lambda chance: float(chance.draw(fn).sum()), nodes=nodes)
    assert sum(weight for weight, _ in ways) == pytest.approx(1.0, abs=1e-12)
    return sum(weight * value**power for weight, value in ways)


@pytest.mark.parametrize(
    ("fn", "first", "second"),
    [
        (Bernoulli(double(0.3)), 0.3, 0.3),
        (Binomial(3, double(0.2)), 0.6, 0.6**2 + 0.48),
        (Categorical(double(0.2, 0.5, 0.3)), 1.1, 1.7),
        (Poisson(double(1.7)), 1.7, 1.7 + 1.7**2),
        (Geometric(double(0.4)), 1.5, 1.5**2 + 0.6 / 0.16),
        (Normal(double(0.4), double(1.3)), 0.4, 0.4**2 + 1.3**2),
        (Uniform(double(-1.0), double(2.0)), 0.5, 1.0),
        (Exponential(double(0.7)), 1 / 0.7, 2 / 0.7**2),
        (Gamma(double(1.7), double(0.6)), 1.7 / 0.6, 1.7 * 2.7 / 0.6**2),
        (Rayleigh(torch.ones(1).double()), math.sqrt(math.pi / 2), 2.0),
        (DoubleMaxwell(torch.ones(1).double()), 0.0, 3.0),
    ],
    ids=lambda item: type(item).__name__,
)
def test_the_moments_are_exact(fn: Any, first: float, second: float) -> None:
    assert moment(fn, 1) == pytest.approx(first, rel=1e-9, abs=1e-9)
    assert moment(fn, 2) == pytest.approx(second, rel=1e-9)


def test_a_uniform_allows_for_logarithms_at_its_ends() -> None:
    ways = walked(lambda c: float(c.draw(OpenUniform(torch.zeros(1).double()))), nodes=40)
    found = sum(weight * math.log(value) ** 2 for weight, value in ways)
    assert found == pytest.approx(2.0, rel=1e-9)


@pytest.mark.parametrize("kind", [Rayleigh, DoubleMaxwell, OpenUniform])
def test_draws_have_the_moments_of_the_quadrature(kind: Any) -> None:
    torch.manual_seed(0)
    fn = kind(torch.ones(200_000).double())
    points, weights = fn.measure.rule(30)
    draws = fn.sample()
    for power in (1, 2, 4):
        expected = float((weights * points**power).sum())
        error = float((draws**power).std()) / len(draws) ** 0.5
        assert abs(float((draws**power).mean()) - expected) < 5 * error


def test_what_has_no_probability_is_no_outcome() -> None:
    ways = walked(lambda chance: chance.draw(Bernoulli(double(0.0, 0.5, 1.0))).tolist())
    assert [value for _, value in ways] == [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    assert [weight for weight, _ in ways] == pytest.approx([0.5, 0.5])


def test_what_a_draw_decides_is_found_by_running() -> None:
    def run(chance: Any) -> list[float]:
        first = float(chance.draw(Bernoulli(double(0.5))))
        return [first] if first else [first, float(chance.draw(Bernoulli(double(0.25))))]

    ways = walked(run)
    assert [value for _, value in ways] == [[0.0, 0.0], [0.0, 1.0], [1.0]]
    assert [weight for weight, _ in ways] == pytest.approx([0.375, 0.125, 0.5])


def test_too_many_outcomes_are_refused() -> None:
    with pytest.raises(TooManyOutcomesError, match="more than 100"):
        walked(lambda chance: chance.draw(Bernoulli(torch.full((10,), 0.5))), most=100)


@pytest.mark.parametrize("fn", [Dirichlet(double(1.0, 2.0)), Poisson(double(1e6))])
def test_what_cannot_be_enumerated_is_refused(fn: Any) -> None:
    with pytest.raises(NotEnumerableError, match=type(fn).__name__ + "|counts"):
        walked(lambda chance: chance.draw(fn))


def test_a_family_by_its_inverse_distribution_function_converges() -> None:
    coarse, fine = (moment(Laplace(double(0.3), double(1.0)), 2, nodes) for nodes in (8, 128))
    assert abs(fine - 2.09) < abs(coarse - 2.09) < 1
    assert fine == pytest.approx(2.09, rel=5e-3)


@pytest.mark.parametrize("fn", [Poisson, Geometric])
def test_counts_of_single_precision_are_all_but_a_tail(fn: Any) -> None:
    single = fn(torch.tensor([0.4], dtype=torch.float32))
    ways = walked(lambda chance: chance.draw(single))
    assert ways[0][1].dtype == torch.float32
    mean = sum(weight * float(value) for weight, value in ways)
    assert mean == pytest.approx(float(single.mean), rel=1e-5)


@pytest.mark.parametrize(("dtype", "small"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_what_torch_makes_of_no_probability_is_no_outcome(dtype: torch.dtype, small: float) -> None:
    probs = torch.tensor([0.0, small, 1.0], dtype=dtype)
    ways = walked(lambda chance: chance.draw(Bernoulli(probs)).tolist())
    assert [value for _, value in ways] == [[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]
    assert ways[1][0] == pytest.approx(small, rel=1e-3)
    classes = Categorical(probs)
    found = walked(lambda chance: int(chance.draw(classes)))
    assert [value for _, value in found] == [1, 2]


class Shifted(Normal):
    """A user's, of whose own nothing is known but its inverse distribution function."""

    def icdf(self, value: torch.Tensor) -> Any:
        return super().icdf(value) + 1.0  # type: ignore[no-untyped-call]


class Broken(Normal):
    """Has a slip in it."""

    def icdf(self, value: torch.Tensor) -> torch.Tensor:
        raise AttributeError("a slip")


def test_a_subclass_is_what_it_says() -> None:
    assert moment(Shifted(double(0.4), double(1.3)), 1) == pytest.approx(1.4)
    with pytest.raises(AttributeError, match="a slip"):
        walked(lambda chance: chance.draw(Broken(double(0.0), double(1.0))))


class Partial(Bernoulli):
    """Lists one of its values."""

    def enumerate_support(self, expand: bool = True) -> Any:
        return super().enumerate_support(expand)[:1]  # type: ignore[no-untyped-call]


class Unnormalized(Bernoulli):
    """Has a density that is not normalized."""

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        return value * self.logits


@pytest.mark.parametrize(
    ("kind", "total"),
    [(Partial, "0.7"), (Unnormalized, "1.42857")],
    ids=["partial", "unnormalized"],
)
def test_values_whose_probabilities_do_not_add_up_are_no_outcomes(kind: Any, total: str) -> None:
    fn = kind(double(0.3, 0.3))
    with pytest.raises(
        NotEnumerableError, match=f"{kind.__name__} lists have .* add up to {total}"
    ):
        moment(fn, 1)

    def program() -> torch.Tensor:
        return (an.sample("z", kind(double(0.3, 0.3).requires_grad_())) ** 2).sum()

    each = (an.estimators.LocalExpectation(), an.estimators.ExactSum())
    for estimator in each:
        with pytest.raises(EstimatorError, match=f"all their values, .* add up to {total}"):
            an.estimate(program, estimators={"z": estimator})
