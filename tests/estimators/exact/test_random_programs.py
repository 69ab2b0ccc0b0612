"""Whatever ops lie between the draws and the loss, the mean is the exact gradient."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from programs.estimates import higher_derivatives, library
from programs.ops import OPS
from programs.random import PARAMETERS, RandomProgram, program_around, programs
from torch import Tensor

from ancestral.estimators.baselines.leave_one_out import LeaveOneOut
from ancestral.estimators.credit.credit import Estimator, by_element, by_site, total_cost
from ancestral.estimators.gradient.subtraction import Baselines
from oracles import exact_derivatives, mean_and_truth, moments


def leaves() -> list[Tensor]:
    return [p.clone().requires_grad_() for p in PARAMETERS]


def close(found: Tensor, expected: Tensor) -> None:
    assert math.isfinite(float(expected.sum()))
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * scale)


def reproducible(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on the same random programs every time."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@pytest.mark.parametrize("name", OPS)
def test_mean_is_the_exact_gradient_with_every_op_between_two_draws(name: str) -> None:
    for parameter, at in itertools.product(range(len(PARAMETERS)), range(-1, OPS[name].arity)):
        program = program_around(name, parameter, at)
        if program is not None:
            close(*mean_and_truth(program, leaves(), library()))


@reproducible(60)
@given(program=programs())
def test_mean_is_the_exact_gradient(program: RandomProgram) -> None:
    close(*mean_and_truth(program, leaves(), library()))


# Some programs have sites that nothing keeps apart, of which the baseline says so.
@pytest.mark.filterwarnings("ignore::ancestral.errors.BaselineWarning")
@pytest.mark.parametrize(
    ("estimator", "baseline"),
    [(by_element, None), (by_element, LeaveOneOut(0)), (by_site, "auto"), (total_cost, None)],
    ids=["no baseline", "leave one out", "by site", "total cost"],
)
@reproducible(15)
@given(program=programs())
def test_mean_of_other_estimators_is_the_exact_gradient(
    estimator: Estimator, baseline: Baselines, program: RandomProgram
) -> None:
    close(*mean_and_truth(program, leaves(), library(estimator, baseline)))


@reproducible(15)
@given(program=programs())
def test_mean_of_the_second_derivatives_is_exact(program: RandomProgram) -> None:
    mean = moments(program, leaves(), higher_derivatives(2)).mean
    close(mean, exact_derivatives(program, leaves(), 2))
