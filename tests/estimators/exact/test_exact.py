"""Mean, variance and higher derivatives of every estimator, exact by enumeration."""

import functools
from collections.abc import Callable

import pytest
import torch
from programs.apart import APART, apart, apart_by_hand
from programs.batches import WEIGHTS
from programs.estimates import experienced, higher_derivatives, learn, library
from programs.example import BY_SITE, EXAMPLES, Example, weigh
from programs.sites import TARGET
from programs.time import chain_steps
from torch import Tensor
from torch.distributions import Bernoulli

from ancestral.estimators.baselines.leave_one_out import LeaveOneOut
from ancestral.estimators.baselines.neural import Neural
from ancestral.estimators.baselines.optimal import Optimal
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.credit.credit import Estimator, by_element, by_site, total_cost
from ancestral.estimators.gradient.subtraction import Baselines
from ancestral.estimators.gradient.surrogate import surrogate
from ancestral.trace.recording.record import record
from oracles import (
    Estimate,
    Path,
    Program,
    autograd,
    derivatives,
    enumerated,
    estimates,
    estimates_on,
    exact_derivatives,
    moments,
    moments_of,
    paths,
    replaying,
    score_function,
)

DEPENDENT = [
    "two_costs_of_one_loss",
    "diamond",
    "chain_that_adds",
    "batch_that_adds",
    "global_site_over_a_batch",
    "coin_then_normal",
    "normal_then_coin",
    "coin_normal_coin",
    "learned_coefficients",
    "batch_mean",
    "elbo",
    "elbo_of_two_layers",
    "elbo_of_a_categorical",
]

every_program = pytest.mark.parametrize("name", EXAMPLES)
close = functools.partial(torch.testing.assert_close, rtol=1e-6, atol=1e-9)


@functools.cache
def outcomes(name: str) -> tuple[list[Path], Tensor]:
    """Return every path of an example, without its graph, and the exact gradient."""
    runs, exact = enumerated(EXAMPLES[name].program, EXAMPLES[name].parameters)
    return [Path(p.draws, p.log_prob.detach(), p.loss.detach()) for p in runs], exact


def truth(name: str) -> Tensor:
    """Return the exact gradient of an example."""
    return outcomes(name)[1]


def estimated(name: str, estimate: Estimate) -> tuple[Tensor, Tensor]:
    """Return the probability of every path of an example, and an estimate on it."""
    example = EXAMPLES[name]
    return estimates_on(outcomes(name)[0], example.program, example.parameters, estimate)


@functools.cache
def found(name: str, estimator: Estimator) -> tuple[Tensor, Tensor]:
    """Return the probability of every path of an example, and the library's estimate on it."""
    return estimated(name, library(estimator, None))


@functools.cache
def by_hand(name: str) -> tuple[Tensor, Tensor]:
    """Return the same of the surrogate written by hand."""
    example = EXAMPLES[name]
    return estimates(example.by_hand, example.parameters, autograd)


@every_program
@pytest.mark.parametrize("estimator", [by_element, by_site, total_cost])
def test_mean_is_the_exact_gradient(estimator: Estimator, name: str) -> None:
    close(moments_of(*found(name, estimator)).mean, truth(name))


@every_program
def test_estimate_of_every_path_is_the_one_by_hand(name: str) -> None:
    """So are the mean and the variance."""
    close(found(name, by_element), by_hand(name))


@pytest.mark.parametrize("name", APART)
def test_op_that_keeps_examples_apart_credits_each_with_its_own_cost(name: str) -> None:
    parameters = [torch.tensor(WEIGHTS, dtype=torch.float64, requires_grad=True)]
    ours = estimates(functools.partial(apart, name), parameters, library(baseline=None))
    close(ours, estimates(functools.partial(apart_by_hand, name), parameters, autograd))


@pytest.mark.parametrize(
    "name", [n for n, example in EXAMPLES.items() if not example.scores_are_costs]
)
def test_total_cost_is_the_score_function_by_hand(name: str) -> None:
    close(found(name, total_cost), estimated(name, score_function))


@pytest.mark.parametrize("name", BY_SITE)
def test_by_site_is_the_downstream_estimator_of_whole_sites_by_hand(name: str) -> None:
    theirs = estimates(BY_SITE[name], EXAMPLES[name].parameters, autograd)
    close(found(name, by_site), theirs)


# Some programs have a single draw, of which the baseline says that it has no others.
WITHOUT_EFFECT = pytest.mark.filterwarnings("ignore::ancestral.errors.BaselineWarning")


Learned = Callable[[Example], Baselines]
BASELINES: dict[str, Learned] = {
    "the default": lambda example: "auto",
    "leave one out": lambda example: LeaveOneOut(),
    "running mean": functools.partial(experienced, RunningMean),
    "optimal": functools.partial(experienced, Optimal),
    "neural": functools.partial(experienced, Neural),
}
every_baseline = pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)


# Those that learn each meet every third program.
THIRDS = {"running mean": 0, "optimal": 1, "neural": 2}
MEETINGS = [
    (baseline, name)
    for baseline in BASELINES
    for at, name in enumerate(EXAMPLES)
    if THIRDS.get(baseline, at % 3) == at % 3
]


@WITHOUT_EFFECT
@pytest.mark.parametrize(("baseline", "name"), MEETINGS)
def test_a_baseline_keeps_the_mean(baseline: str, name: str) -> None:
    estimate = library(baseline=BASELINES[baseline](EXAMPLES[name]))
    close(moments_of(*estimated(name, estimate)).mean, truth(name))


def test_leave_one_out_subtracts_the_mean_cost_of_the_other_examples() -> None:
    def by_hand(logit: Tensor) -> Tensor:
        q = Bernoulli(logits=logit)
        z = q.sample((3,))
        cost = (z - TARGET) ** 2
        return weigh(q.log_prob(z), cost - (cost.sum() - cost) / 2)

    example = EXAMPLES["batch_of_one_coin"]
    theirs = estimates(by_hand, example.parameters, autograd)
    close(estimates(example.program, example.parameters, library(baseline=LeaveOneOut())), theirs)


def test_running_mean_subtracts_the_mean_cost_of_the_steps_before() -> None:
    """Of two steps, the later counts 1 and the earlier 0.9, the decay."""

    def by_hand(logit: Tensor) -> Tensor:
        q = Bernoulli(logits=logit)
        z = q.sample()
        return weigh(q.log_prob(z), (z - 0.45) ** 2 - (0.9 * 0.45**2 + 0.55**2) / 1.9)

    example, baseline = EXAMPLES["one_coin"], RunningMean(decay=0.9)
    tail, head = sorted(paths(example.program, example.parameters), key=lambda path: path.draws)
    for path in (tail, head):
        learn(baseline, example, path)
    theirs = estimates(by_hand, example.parameters, autograd)
    close(estimates(example.program, example.parameters, library(baseline=baseline)), theirs)


@every_program
def test_surrogate_has_the_value_of_the_loss_and_the_gradient_of_backward(name: str) -> None:
    example = EXAMPLES[name]
    for path, estimate in zip(outcomes(name)[0], found(name, by_element)[1], strict=True):
        leaves = example.parameters
        with replaying(path), record():
            loss = example.program(*leaves)
        scalar = surrogate(loss, baseline=None)
        close(scalar.detach(), path.loss.detach())
        close(derivatives(scalar, leaves), estimate)


@functools.cache
def true_derivatives(name: str, order: int) -> Tensor:
    """Return the derivatives of this order of the expected loss of an example."""
    return exact_derivatives(EXAMPLES[name].program, EXAMPLES[name].parameters, order)


def assert_mean_is_exact(name: str, order: int, baseline: Baselines = None) -> None:
    """Compare the mean of the surrogate's derivatives with those of the expected loss."""
    ours = estimated(name, higher_derivatives(order, baseline))
    close(moments_of(*ours).mean, true_derivatives(name, order))


@every_program
def test_mean_of_the_second_derivatives_is_exact(name: str) -> None:
    assert_mean_is_exact(name, 2)


@WITHOUT_EFFECT
@pytest.mark.parametrize("name", DEPENDENT)
@every_baseline
def test_a_baseline_keeps_the_mean_of_the_second_derivatives(baseline: Learned, name: str) -> None:
    assert_mean_is_exact(name, 2, baseline(EXAMPLES[name]))


@pytest.mark.parametrize(
    "name", ["two_costs_of_one_loss", "coin_normal_coin", "elbo_of_two_layers"]
)
def test_mean_of_the_third_derivatives_is_exact(name: str) -> None:
    assert_mean_is_exact(name, 3)


def variance_of(program: Program, values: list[float] | float, estimator: Estimator) -> Tensor:
    """Return the variance of every coordinate."""
    theta = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    return moments(program, [theta], library(estimator, None)).variance


@pytest.mark.parametrize(("count", "full"), [(1, 0.01594), (2, 0.06438), (4, 0.25690)])
def test_variance_of_independent_bits_does_not_grow_with_their_number(
    count: int, full: float
) -> None:
    def program(logits: Tensor) -> Tensor:
        return ((Bernoulli(logits=logits).sample() - 0.45) ** 2).sum()  # type: ignore[no-any-return]

    for estimator, known in ((by_element, 0.01594), (by_site, full), (total_cost, full)):
        each = torch.full((count,), known, dtype=torch.float64)
        torch.testing.assert_close(
            variance_of(program, [0.0] * count, estimator), each, rtol=0, atol=5e-6
        )


@pytest.mark.parametrize(
    ("length", "full", "downstream"), [(2, 0.10980, 0.07187), (4, 0.88802, 0.42501)]
)
def test_total_variance_of_a_markov_chain(length: int, full: float, downstream: float) -> None:
    def program(logits: Tensor) -> Tensor:
        return torch.stack(chain_steps(logits, length)).sum()

    for estimator, known in ((total_cost, full), (by_site, downstream), (by_element, downstream)):
        total = variance_of(program, [-0.4, 0.9], estimator).sum().item()
        assert total == pytest.approx(known, abs=5e-6)


@pytest.mark.parametrize("logit", [-1.5, 0.0, 0.7])
def test_variance_of_one_coin(logit: float) -> None:
    """With D = f(1) - f(0): p (1-p) [(1-p) f(1)^2 + p f(0)^2] - (p (1-p) D)^2."""
    p = torch.tensor(logit, dtype=torch.float64).sigmoid()
    low, high = 0.45**2, 0.55**2
    q = p * (1 - p)
    known = q * ((1 - p) * high**2 + p * low**2) - (q * (high - low)) ** 2
    close(variance_of(EXAMPLES["one_coin"].program, logit, by_element), known.reshape(1))
