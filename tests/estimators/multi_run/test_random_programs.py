"""Whatever a program does with its draws, the mean is the exact gradient."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from programs.python import PythonProgram, python_programs
from programs.random import RandomProgram, programs
from torch import Tensor

from ancestral.errors import EstimatorError, TooManyOutcomesError
from ancestral.estimators import RLOO, LocalExpectation
from ancestral.estimators.rerun.estimate import Plan
from ancestral.estimators.rerun.moments import moments_of
from oracles import exact_gradient

pytestmark = pytest.mark.filterwarnings("ignore:.")  # of blurred credit, kinks and held scores


def reproducible(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on the same random programs every time."""
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[*HealthCheck],
    )


def check(program: Callable[..., Tensor], parameters: Sequence[Tensor]) -> None:
    exact = exact_gradient(program, parameters)
    for estimator in (LocalExpectation(), RLOO(2)):
        try:
            found = moments_of(
                lambda: program(*parameters), Plan(estimator), parameters, nodes=2, most=120
            )
        except (EstimatorError, TooManyOutcomesError):
            continue
        scale = max(1.0, float(exact.abs().max()))
        torch.testing.assert_close(found.mean, exact, rtol=1e-6, atol=1e-9 * scale)


@reproducible(6)
@given(program=programs())
def test_of_ops(program: RandomProgram) -> None:
    check(program, program.parameters)


@reproducible(12)
@given(program=python_programs())
def test_of_python(program: PythonProgram) -> None:
    assume("poured" not in program.source)  # which only the oracle can draw
    check(program, program.parameters)
