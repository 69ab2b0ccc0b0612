"""Bounds of several draws: in turn and at once, subsamples, what ties examples together."""

import itertools
import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from outcomes_of_draws import Programs
from programs.pairs import CASES, Case, coin, parameters
from torch import Tensor
from torch.distributions import Normal

import ancestral as an
from oracles import derivatives, estimates_on, expectation, forcing, moments_of, paths

X = torch.tensor([0.3, -1.2, 0.8, 1.7], dtype=torch.float64)
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
Estimate = Callable[..., Any]


def log_mean_of(case: Case, particles: int) -> Estimate:
    def program(*values: Tensor) -> Tensor:
        losses = torch.stack([case.reference(*values) for _ in range(particles)])
        return math.log(particles) - torch.logsumexp(-losses, 0)

    return program


def check_mean(program: Any, values: list[Tensor], estimate: Any) -> None:
    """Check the mean of a gradient and of the bound behind it against all outcomes."""
    runs = paths(program, values)
    exact = expectation(runs)
    mean = moments_of(*estimates_on(runs, program, values, estimate)).mean
    torch.testing.assert_close(mean[:-1], derivatives(exact, values), **EXACT)
    torch.testing.assert_close(mean[-1], -exact.detach(), **EXACT)


@pytest.mark.parametrize(
    ("name", "particles"),
    [*((name, 1) for name in CASES), ("branching", 2), ("chain", 2)],
)
def test_in_turn_the_mean_of_bound_and_gradient_is_exact(name: str, particles: int) -> None:
    values, program = parameters(), log_mean_of(CASES[name], particles)

    def estimate(_: Any, values: Any) -> Tensor:
        bound = an.infer.iwae(*CASES[name].build(*values), particles=particles)
        torch.testing.assert_close(bound.value, -bound.surrogate.detach())
        return torch.cat([derivatives(bound.surrogate, values), bound.value[None]])

    check_mean(program, values, estimate)


OWN = {"function": lambda x: x.mean(0) - 0.1 * x.var(0, correction=0)}
LOG_WEIGHTS: list[dict[str, Any]] = [
    {},
    OWN,
    {**OWN, "baseline": None},
    {"estimator": "score"},
    {"pathwise": "plain"},
]


@pytest.mark.parametrize("options", LOG_WEIGHTS, ids=lambda options: " ".join(options))
def test_no_choice_changes_the_mean_for_log_weights_of_plain_torch(options: dict[str, Any]) -> None:
    values = [torch.tensor(v, dtype=torch.float64) for v in ((0.3, -0.4), (0.8, 0.1))]
    for value in values:
        value.requires_grad_()
    function = options.get("function", lambda x: torch.logsumexp(x, 0) - math.log(len(x)))

    def log_weights(q: Tensor, p: Tensor) -> Tensor:
        z = coin(q).sample((2,))
        log_p = coin(p).log_prob(z) + Normal(z * p, 0.9).log_prob(X[:2])
        found: Tensor = log_p - coin(q).log_prob(z)
        return found

    def program(*values: Tensor) -> Tensor:
        loss: Tensor = -function(log_weights(*values)).sum()
        return loss

    def estimate(_: Any, values: Any) -> Tensor:
        with an.record():
            found = log_weights(*values)
        bound = an.infer.of_log_weights(found, **options)
        return torch.cat([derivatives(bound.surrogate, values), bound.value[None]])

    check_mean(program, values, estimate)


def pair_of_plates(q: Tensor, p: Tensor, size: int) -> Programs:
    """Return coins in a plate of 3, of which some are there, each with two observations."""

    def model() -> None:
        with an.plate("data", 3, subsample_size=size):
            z = an.sample("z", coin(p[0]))
            with an.plate("twice", 2, dim=-2):
                an.sample("x", Normal(z * p[1], 0.9), obs=an.subsample(X[:3]).expand(2, size))

    def guide() -> None:
        with an.plate("data", 3, subsample_size=size) as index:
            an.sample("z", coin(q[index]))

    return model, guide


@pytest.mark.parametrize("vectorized", [False, True])
def test_a_subsample_of_examples_stands_for_the_whole(vectorized: bool) -> None:
    """The sum over examples of the log of the mean weight, whose own mean is by enumeration."""
    q, p, _ = parameters()
    total = torch.zeros((), dtype=torch.float64)
    for n, draws in itertools.product(range(3), itertools.product((0.0, 1.0), repeat=2)):
        z = torch.tensor(draws, dtype=torch.float64)
        fit = 2 * Normal(z * p[1], 0.9).log_prob(X[n])
        weights = coin(p[0]).log_prob(z) + fit - coin(q[n]).log_prob(z)
        chance = coin(q[n]).log_prob(z).sum().exp()
        total = total + chance * (torch.logsumexp(weights, 0) - math.log(2))
    truth = torch.cat(torch.autograd.grad(-total, (q, p)))
    found: list[Tensor] = []
    for first in range(3):  # each subsample in one order
        chosen = torch.arange(first, first + 3) % 3
        for outcome in itertools.product((0.0, 1.0), repeat=4):
            left = torch.tensor(outcome, dtype=torch.float64).reshape(2, 2)
            rows = iter(left)

            def force(_: Any, shape: torch.Size, rows: Any = rows, left: Tensor = left) -> Tensor:
                return (left if vectorized else next(rows)).clone().reshape(shape)

            order_of = mock.patch.object(torch, "randperm", lambda _, order=chosen: order)
            with forcing(force), order_of:
                bound = an.infer.iwae(
                    *pair_of_plates(q, p, 2),
                    particles=2,
                    vectorized=vectorized,
                    max_plate_nesting=2 if vectorized else None,
                )
            chance = coin(q[chosen[:2]]).log_prob(left).sum().exp().detach()
            gradient = torch.cat(torch.autograd.grad(bound.surrogate, (q, p)))
            found.append(chance / 3 * gradient)
    torch.testing.assert_close(torch.stack(found).sum(0), truth, **EXACT)


def test_a_site_outside_of_the_plate_makes_one_example_of_it() -> None:
    def model() -> None:
        g = an.sample("g", Normal(0.0, 1.0))
        with an.plate("data", 4):
            an.sample("x", Normal(g, 1.0), obs=X)

    def guide() -> None:
        an.sample("g", Normal(0.5, 1.0))

    assert an.infer.iwae(model, guide, particles=3).log_weights.shape == (3,)
    bound = an.infer.iwae(model, guide, particles=3, vectorized=True)
    expected = torch.logsumexp(bound.log_weights, 0) - math.log(3)
    torch.testing.assert_close(bound.value, expected)


@pytest.mark.parametrize("vectorized", [False, True])
def test_data_outside_of_the_plate_that_depends_on_no_draw_leaves_the_examples(
    vectorized: bool,
) -> None:
    """A penalty, or data on the parameters alone, is added to the bound of the examples."""
    p, q = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.4, -0.3))

    def pair(is_penalized: bool) -> Programs:
        def model() -> None:
            if is_penalized:
                an.factor("penalty", -3 * p**2)
            with an.plate("data", 4, subsample_size=2):
                z = an.sample("z", Normal(p, 1.0))
                an.sample("x", Normal(z, 1.0), obs=an.subsample(X))

        def guide() -> None:
            with an.plate("data", 4, subsample_size=2):
                an.sample("z", Normal(q, 1.0))

        return model, guide

    for name in ("iwae", "wake_sleep", "thermodynamic", "forward_kl"):
        found: list[Tensor] = []
        for is_penalized in (True, False):
            torch.manual_seed(0)
            options: dict[str, Any] = {
                "particles": 3,
                "vectorized": vectorized,
                "max_plate_nesting": 1,
            }
            bound = getattr(an.infer, name)(*pair(is_penalized), **options)
            assert bound.log_weights.shape == (3, 2)
            gradient = torch.autograd.grad(bound.surrogate, (p, q), materialize_grads=True)
            found.append(torch.stack([bound.value, bound.surrogate.detach(), *gradient]))
        penalty = torch.stack([-3 * p**2, 3 * p**2, 6 * p, 0 * p]).detach()
        expected = torch.zeros_like(penalty) if name == "forward_kl" else penalty
        torch.testing.assert_close(found[0] - found[1], expected, **EXACT)
    bound = an.infer.multi_sample(
        *pair_without_subsample(p, q), function=lambda x: x.mean(0), particles=3
    )
    assert bound.log_weights.shape == (3,)


def pair_without_subsample(p: Tensor, q: Tensor) -> Programs:
    def model() -> None:
        an.factor("penalty", -3 * p**2)
        with an.plate("data", 4):
            an.sample("x", Normal(an.sample("z", Normal(p, 1.0)), 1.0), obs=X)

    def guide() -> None:
        with an.plate("data", 4):
            an.sample("z", Normal(q, 1.0))

    return model, guide


def test_at_the_posterior_every_bound_is_the_log_evidence() -> None:
    loc = (X / 2).requires_grad_()

    def model() -> None:
        with an.plate("data", 4):
            z = an.sample("z", Normal(torch.zeros(4, dtype=torch.float64), 1.0))
            an.sample("x", Normal(z, 1.0), obs=X)

    def guide() -> None:
        with an.plate("data", 4):
            an.sample("z", Normal(loc, 0.5**0.5))

    evidence = Normal(torch.zeros_like(X), 2**0.5).log_prob(X).sum()
    for name, options in {
        "iwae": {},
        "renyi": {"alpha": 0.5},
        "thermodynamic": {},
        "log_evidence": {},
        "wake_sleep": {},
    }.items():
        bound = getattr(an.infer, name)(model, guide, particles=3, **options)
        torch.testing.assert_close(bound.value, evidence)
    assert an.infer.forward_kl(model, guide, particles=3).value.abs() < 1e-12
    # Along the paths nothing is left there, whatever the draws: the landing sticks.
    bound = an.infer.iwae(model, guide, particles=3)
    (gradient,) = torch.autograd.grad(bound.surrogate, loc)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient))
