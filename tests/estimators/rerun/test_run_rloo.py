"""Whole runs that are compared with each other: exact means, of both orders, and closed forms."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from programs.reruns import BITS, CLASSES, Case
from torch import Tensor
from torch.distributions import Bernoulli, Normal

import ancestral as an
import oracles
from ancestral.errors import NotAFunctionError
from ancestral.estimators import LeaveOneOut, RunRLOO, total_cost
from ancestral.estimators.rerun.estimate import Plan
from ancestral.estimators.rerun.moments import moments_of

pytestmark = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")


def finished(theta: Tensor) -> Tensor:
    """Choose among losses that no draw reaches."""
    first, second = theta[1] ** 2, 3 * theta[0]
    return first if Bernoulli(logits=theta[0]).sample().item() > 0 else second


PROGRAMS = {
    name: case
    for name, case in {**BITS, **CLASSES, "finished": Case(finished, [0.3, -0.8])}.items()
    if name not in ("in_a_plate", "batch_of_pairs", "mixed", "one_hot_pair", "classes_in_a_batch")
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("order", [1, 2])
def test_the_mean_is_exact(name: str, order: int) -> None:
    case = PROGRAMS[name]
    theta = case.parameter
    expected = oracles.exact_derivatives(case.program, [theta], order).flatten()
    found = moments_of(lambda: case.program(theta), Plan(RunRLOO(2)), [theta], order=order)
    torch.testing.assert_close(found.mean, expected, rtol=1e-8, atol=1e-10)
    assert found.evaluations == pytest.approx(2)


def test_a_normal_above_is_pathwise_in_each_run() -> None:
    case = BITS["mixed"]
    theta = case.parameter

    def program() -> Tensor:
        a = Normal(theta[0], 0.5).rsample()
        z = Bernoulli(logits=theta[1] + a).sample()
        return (z - 0.2) ** 2 + a * z  # type: ignore[no-any-return]

    found = an.verify(program, estimators=RunRLOO(2), nodes=5, draws=0, tolerance=1e-7)
    assert found.is_unbiased


@pytest.mark.parametrize("count", [2, 3])
def test_the_variance_is_that_of_the_closed_form(count: int) -> None:
    theta = torch.tensor([0.4], dtype=torch.float64, requires_grad=True)

    def program() -> Tensor:
        return (Bernoulli(logits=theta).sample() - 0.45).pow(2).sum()  # type: ignore[no-any-return]

    p = 1 / (1 + np.exp(-0.4))
    q, rise = p * (1 - p), (1 - 0.45) ** 2 - 0.45**2
    found = an.verify(program, estimators=RunRLOO(count))
    if count == 2:  # ESTIMATORS: q D² (1/2 - q)
        assert found.variance == pytest.approx(q * rise**2 * (1 / 2 - q), rel=1e-8)
    ways = list(itertools.product((0.0, 1.0), repeat=count))
    probs = np.array([np.prod([p if z else 1 - p for z in way]) for way in ways])
    costs = (np.array(ways) - 0.45) ** 2
    less = (costs.sum(1, keepdims=True) - costs) / (count - 1)
    estimates = ((costs - less) * (np.array(ways) - p)).mean(1)
    mean = probs @ estimates
    assert found.variance == pytest.approx(probs @ (estimates - mean) ** 2, rel=1e-8)
    assert found.evaluations == pytest.approx(count)


def test_all_sites_share_the_runs() -> None:
    case = BITS["layers"]
    runs = an.estimate(case.program, case.parameter, estimators=RunRLOO(5), check=False)
    assert runs.evaluations == 5


def test_runs_are_independent_and_the_value_is_their_mean() -> None:
    theta, seen = torch.zeros(8, requires_grad=True), []

    def program() -> Any:
        z = Normal(theta, 1.0).sample()
        mask = torch.rand(8)
        loss = (z * mask).sum()
        seen.append((an.untrack(z), an.untrack(mask), an.untrack(loss)))
        return loss

    found = an.estimate(program, estimators=RunRLOO(3), check=False)
    numbers = torch.cat([torch.cat([z, mask]) for z, mask, _ in seen])
    assert len(numbers.unique()) == len(numbers)
    torch.testing.assert_close(found.value, torch.stack([loss for *_, loss in seen]).mean())
    torch.testing.assert_close(found.surrogate.detach(), found.value)


def test_the_mean_of_many_draws_is_the_gradient() -> None:
    case = BITS["layers"]
    theta = case.parameter
    found = an.verify(case.program, theta, estimators=RunRLOO(3), outcomes=2, draws=100)
    assert found.method == "z-test"
    assert found.is_unbiased


def test_declared_costs_and_the_credit_of_the_whole_loss() -> None:
    theta = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)

    def program() -> None:
        x = Bernoulli(logits=theta[0]).sample()
        if x.item() > 0:
            y = Bernoulli(logits=theta[1]).sample()
            an.cost("only", (y - 0.2) ** 2)

    assert an.verify(program, estimators=RunRLOO(2), draws=0).is_unbiased
    case = BITS["layers"]
    whole = an.verify(case.program, case.parameter, estimators=RunRLOO(2), credit=total_cost)
    part = an.verify(case.program, case.parameter, estimators=RunRLOO(2))
    assert whole.is_unbiased
    assert part.variance < whole.variance


def test_a_run_that_depends_on_another_is_refused() -> None:
    theta, kept = torch.zeros(2, requires_grad=True), list[Tensor]()

    def program() -> Tensor:
        kept.append(Bernoulli(logits=theta).sample())
        return (kept[0] * kept[-1]).sum()

    with pytest.raises(NotAFunctionError, match="in an earlier one"):
        an.estimate(program, estimators=RunRLOO(2), check=False)


def test_wrong_arguments_are_refused() -> None:
    case = BITS["layers"]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"estimators": {"x": RunRLOO(2)}}, r"is for all sites.*there is RLOO\(2\)"),
        ({"estimators": RunRLOO(2), "baseline": LeaveOneOut()}, "leave baseline= out"),
    ]
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            an.estimate(case.program, case.parameter, **options)
    with pytest.raises(ValueError, match="must be an int greater than 1"):
        RunRLOO(1)
