"""Whatever Python does with a value, the mean is the exact gradient."""

import functools

import programs.control  # noqa: F401 (registers the programs)
import pytest
import torch
from programs.control.register import CONTROL
from programs.estimates import higher_derivatives, library
from torch import Tensor

from ancestral.estimators.credit.credit import Estimator, by_element, by_site, total_cost
from ancestral.estimators.gradient.loss_pytree import LossError
from oracles import (
    Path,
    enumerated,
    estimates_on,
    exact_derivatives,
    mean_and_truth,
    moments,
    moments_of,
)

every_program = pytest.mark.parametrize("name", CONTROL)


@functools.cache
def outcomes(name: str) -> tuple[list[Path], Tensor]:
    """Return every path of a program, and the exact gradient."""
    control = CONTROL[name]
    return enumerated(control.program, control.parameters)


def close(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6 * scale)


def mean_of(name: str, estimator: Estimator) -> Tensor:
    control = CONTROL[name]
    runs, _ = outcomes(name)
    return moments_of(
        *estimates_on(runs, control.program, control.parameters, library(estimator))
    ).mean


@every_program
def test_a_program_has_several_paths_and_something_to_learn(name: str) -> None:
    runs, gradient = outcomes(name)
    assert 4 <= len(runs) <= 64
    assert gradient.abs().max() > 1e-3


@every_program
def test_mean_is_the_exact_gradient(name: str) -> None:
    close(mean_of(name, by_element), outcomes(name)[1])


@pytest.mark.parametrize(
    ("estimator", "name"),
    [(e, n) for at, e in enumerate((by_site, total_cost)) for n in list(CONTROL)[at::3]],
)
def test_mean_of_coarser_credit_is_the_exact_gradient(estimator: Estimator, name: str) -> None:
    close(mean_of(name, estimator), outcomes(name)[1])


@pytest.mark.parametrize("name", list(CONTROL)[::5])
def test_mean_of_the_second_derivatives_is_exact(name: str) -> None:
    control = CONTROL[name]
    mean = moments(control.program, control.parameters, higher_derivatives(2)).mean
    close(mean, exact_derivatives(control.program, control.parameters, 2))


@every_program
def test_alone_it_is_exact_too_or_refused(name: str) -> None:
    """A loss that nothing followed on one path is refused there, and never silently wrong."""
    alone, parameters = CONTROL[name].alone, CONTROL[name].parameters
    try:
        found = mean_and_truth(alone, parameters, library())
    except LossError:
        return
    close(*found)
