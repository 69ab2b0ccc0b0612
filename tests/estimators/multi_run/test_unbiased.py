"""Every estimator of several runs has the exact gradient as its mean, on every program.

The gradient is that of the enumeration in `oracles`, which knows neither the estimators nor the
runs that they ask for; the mean is over all outcomes of both.
"""

import pytest
import torch
from programs.reruns import BITS, CLASSES, Case

import oracles
from ancestral.estimators import (
    ARM,
    ARMS,
    RLOO,
    DisARM,
    ExactSum,
    LocalExpectation,
    MeasureValued,
    SmoothedPerturbation,
    SumAndSample,
    UnorderedSet,
)
from ancestral.estimators.rerun.estimate import Plan
from ancestral.estimators.rerun.moments import moments_of
from ancestral.estimators.rerun.site_draw import SiteEstimator

# Programs that branch on a draw blur credit on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")

OF_FINITE = [RLOO(2), LocalExpectation(), ExactSum(), SumAndSample(1), UnorderedSet(2)]
OF_BITS = [*OF_FINITE, DisARM(), ARM(), ARMS(2), ARMS(3), MeasureValued(), SmoothedPerturbation()]
OF_CLASSES = [
    *OF_FINITE,
    SumAndSample(2),
    UnorderedSet(3),
    MeasureValued(),
    SmoothedPerturbation(),
]


def check(case: Case, estimator: SiteEstimator | dict[str, SiteEstimator]) -> None:
    theta = case.parameter
    exact = oracles.exact_gradient(case.program, [theta])
    # Two nodes: the noise of the oracle, and exact for the square of what is linear in it.
    found = moments_of(lambda: case.program(theta), Plan(estimator), [theta], nodes=2)
    torch.testing.assert_close(found.mean, exact, rtol=1e-8, atol=1e-10)


MANY: dict[str, list[SiteEstimator]] = {
    "batch_of_pairs": [LocalExpectation(), ExactSum(), DisARM()],
    "in_a_plate": [LocalExpectation(), ExactSum(), DisARM(), RLOO(2)],
    "layers": [LocalExpectation(), ExactSum(), DisARM(), RLOO(2), ARMS(2)],
}
"""Programs of so many outcomes that they are tried with some estimators only."""


@pytest.mark.parametrize(
    ("name", "estimator"),
    [(name, each) for name in BITS for each in MANY.get(name, OF_BITS)],
    ids=str,
)
def test_of_bits(name: str, estimator: SiteEstimator) -> None:
    check(BITS[name], {"*": estimator} if name != "mixed" else {"z": estimator})


@pytest.mark.parametrize("estimator", OF_CLASSES, ids=repr)
@pytest.mark.parametrize("name", CLASSES)
def test_of_classes(name: str, estimator: SiteEstimator) -> None:
    of_bits = {"x": DisARM()} if name == "classes_below" else {}
    check(CLASSES[name], {**of_bits, "*": estimator})
