"""Objectives as they are called: particles in turn and at once, subsamples, peers, wrong uses."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import pyro
import pyro.distributions as dist
import pyro.infer
import pytest
import torch
from outcomes_of_draws import CHAIN, COIN_AFTER, Outcomes, Programs, outcomes, plated
from programs.pairs import CASES, Case, coin, parameters
from torch import Tensor, nn
from torch.distributions import Normal, Uniform, kl_divergence

import ancestral as an
from ancestral.errors import (
    BiasedGradientWarning,
    DerivativeOrderError,
    EnumerationError,
    GuideError,
    NonFiniteDensityError,
    SiteError,
    WeightError,
)
from oracles import derivatives, estimates_on, expectation, forcing, moments, moments_of, paths

X = torch.tensor([0.3, -1.2, 0.8, 1.7], dtype=torch.float64)
EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
Estimate = Callable[..., Any]


# --- Particles in turn: programs that branch, masks and scales, draws from the prior ---


def log_mean_of(case: Case, particles: int) -> Estimate:
    def program(*values: Tensor) -> Tensor:
        losses = torch.stack([case.reference(*values) for _ in range(particles)])
        return math.log(particles) - torch.logsumexp(-losses, 0)

    return program


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

    runs = paths(program, values)
    exact = expectation(runs)
    mean = moments_of(*estimates_on(runs, program, values, estimate)).mean
    torch.testing.assert_close(mean[:-1], derivatives(exact, values), **EXACT)
    torch.testing.assert_close(mean[-1], -exact.detach(), **EXACT)


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


# --- Paths ---


def estimates_of(found: Outcomes, particles: int, **options: Any) -> tuple[Tensor, Tensor]:
    options |= {"particles": particles, "vectorized": True, "max_plate_nesting": 1}
    return found.estimates(lambda pair: an.infer.iwae(*pair, **options).surrogate)


def test_sticking_the_landing_is_exact_for_one_draw_and_warns_of_its_bias_for_more() -> None:
    one, two = outcomes(CHAIN, 1, 30), outcomes(COIN_AFTER, 2, 30)
    gradient, weights = estimates_of(one, 1, pathwise="stl", baseline=None)
    truth = -one.truth(lambda p, q: (p - q).sum(0))
    torch.testing.assert_close(gradient @ weights, truth, rtol=0, atol=1e-8)
    with pytest.warns(BiasedGradientWarning, match=r"pathwise='stl' .* site 'y' .*use .*'dreg'"):
        gradient, weights = estimates_of(two, 2, pathwise="stl")
    truth = -two.truth(lambda p, q: torch.logsumexp(p - q, 0))
    assert (gradient @ weights - truth).abs().max() > 0.01


def signal_to_noise(particles: int, pathwise: str) -> Tensor:
    """Return |mean| / deviation of the gradient by the mean of a guide, of many examples alike."""
    count = 8_000
    loc = torch.zeros(count, dtype=torch.float64).requires_grad_()

    def model() -> None:
        with an.plate("data", count):
            z = an.sample("z", Normal(torch.zeros(count, dtype=torch.float64), 1.0))
            an.sample("x", Normal(z, 1.0), obs=torch.ones(count, dtype=torch.float64))

    def guide() -> None:
        with an.plate("data", count):
            an.sample("z", Normal(loc, 0.9))

    torch.manual_seed(particles)
    options: dict[str, Any] = {"vectorized": True, "max_plate_nesting": 1, "pathwise": pathwise}
    bound = an.infer.iwae(model, guide, particles=particles, **options)
    (gradient,) = torch.autograd.grad(bound.surrogate, loc)
    return gradient.mean().abs() / gradient.std()


def test_signal_to_noise_grows_with_the_draws_doubly_reparameterized_and_falls_else() -> None:
    """As the root of the draws: Tucker et al. (2019), section 8.1, Rainforth et al. (2018)."""
    few, many = (signal_to_noise(k, "dreg") for k in (4, 64))
    assert 3 < many / few < 6, (few, many)
    few, many = (signal_to_noise(k, "plain") for k in (4, 64))
    assert many / few < 0.6, (few, many)


def test_a_doubly_reparameterized_gradient_has_no_second_derivative_and_says_so() -> None:
    loc = torch.tensor([0.1, 0.4], dtype=torch.float64).requires_grad_()

    def model() -> None:
        with an.plate("data", 2):
            an.sample("z", Normal(torch.zeros(2, dtype=torch.float64), 1.0))

    def guide() -> None:
        with an.plate("data", 2):
            an.sample("z", Normal(loc, 1.0))

    ways: Any = (("dreg", pytest.raises(DerivativeOrderError)), ("plain", None))
    for pathwise, outcome in ways:
        bound = an.infer.iwae(model, guide, particles=2, pathwise=pathwise)
        (gradient,) = torch.autograd.grad(bound.surrogate, loc, create_graph=True)
        if outcome is None:
            torch.autograd.grad(gradient.sum(), loc)
            continue
        with outcome:
            torch.autograd.grad(gradient.sum(), loc)


def test_where_no_score_is_to_be_left_out_the_plain_gradient_is_taken() -> None:
    """The ends of a uniform guide are learned: its score is not all of its derivative."""
    high = torch.tensor(0.9, dtype=torch.float64).requires_grad_()

    def model() -> None:
        an.sample("z", Uniform(torch.zeros((), dtype=torch.float64), 2.0))
        an.factor("f", -high.detach())

    def guide() -> None:
        an.sample("z", Uniform(torch.zeros((), dtype=torch.float64), high))

    bound = an.infer.iwae(model, guide, particles=2)
    torch.testing.assert_close(torch.autograd.grad(bound.surrogate, high)[0], -1 / high.detach())
    with pytest.raises(GuideError, match="ends of its support that are learned"):
        an.infer.iwae(model, guide, particles=2, pathwise="dreg")


def test_what_torch_draws_is_noise_of_a_bound_and_refused_where_its_density_would_count() -> None:
    loc = torch.zeros(4, dtype=torch.float64).requires_grad_()

    def model() -> None:
        with an.plate("data", 4):
            an.sample("x", Normal(an.sample("z", Normal(loc * 0, 1.0)), 1.0), obs=X)

    def guide() -> None:
        noise = Normal(loc, 1.0).rsample()
        with an.plate("data", 4):
            an.sample("z", Normal(noise, 1.0))

    def gradient(pathwise: Any) -> Tensor:
        torch.manual_seed(0)
        bound = an.infer.iwae(model, guide, particles=3, pathwise=pathwise)
        return torch.autograd.grad(bound.surrogate, loc)[0]

    torch.testing.assert_close(gradient("auto"), gradient("plain"))
    with pytest.raises(GuideError, match=r"expected the guide to draw, by an\.sample"):
        gradient("dreg")
    with pytest.raises(SiteError, match="is drawn by torch alone"):
        an.infer.forward_kl(model, guide, particles=3)


# The ways in which a site counts in the weight otherwise than it is drawn.


def scaled(v: Any, size: int) -> Programs:
    def model() -> None:
        with an.handlers.scale(0.3):
            y = an.sample("y", Normal(v[0], 1.0))
        b = an.sample("b", coin(v[1] * y))
        an.sample("x", Normal(y + v[0] * b, 0.9), obs=X[:1].expand(size))

    def guide() -> None:
        with an.handlers.scale(0.3):
            y = an.sample("y", Normal(v[2], (0.2 * v[3] - 0.4).exp()))
        an.sample("b", coin(v[3] + v[1] * y))

    return plated(size, model), plated(size, guide)


def of_scaled(v: Any, z: Any) -> Any:
    ratio = Normal(v[0], 1.0).log_prob(z[0])
    ratio = ratio - Normal(v[2], (0.2 * v[3] - 0.4).exp()).log_prob(z[0])
    joint = coin(v[1] * z[0]).log_prob(z[1]) + Normal(z[0] + v[0] * z[1], 0.9).log_prob(X[0])
    return 0.3 * ratio + joint - coin(v[3] + v[1] * z[0]).log_prob(z[1])


def from_prior(v: Any, size: int) -> Programs:
    def model() -> None:
        y = an.sample("y", Normal(v[0], 1.0))
        b = an.sample("b", coin(v[3] + v[1] * y), infer={"is_auxiliary": True})
        an.sample("x", Normal(y + v[0] * b, 0.9), obs=X[:1].expand(size))

    def guide() -> None:
        an.sample("y", Normal(v[2], (0.2 * v[3] - 0.4).exp()))

    return plated(size, model), plated(size, guide)


def of_prior(v: Any, z: Any) -> Any:
    ratio = Normal(v[0], 1.0).log_prob(z[0])
    ratio = ratio - Normal(v[2], (0.2 * v[3] - 0.4).exp()).log_prob(z[0])
    return ratio + Normal(z[0] + v[0] * z[1], 0.9).log_prob(X[0])


@pytest.mark.parametrize(("programs", "log_w"), [(scaled, of_scaled), (from_prior, of_prior)])
@pytest.mark.parametrize("pathwise", ["plain", "dreg"])
def test_what_is_left_out_is_the_density_of_the_draw_however_it_counts(
    programs: Any, log_w: Any, pathwise: str
) -> None:
    case = replace(COIN_AFTER, programs=programs, log_p=log_w)
    found = outcomes(case, 2, 40)
    gradient, weights = estimates_of(found, 2, pathwise=pathwise)
    truth = -found.truth(lambda log_w, _: torch.logsumexp(log_w, 0))
    torch.testing.assert_close(gradient @ weights, truth, rtol=0, atol=1e-8)


def test_the_gradient_of_log_evidence_holds_what_the_model_draws_itself() -> None:
    found = outcomes(replace(COIN_AFTER, programs=from_prior, log_p=of_prior), 2, 40)
    options: dict[str, Any] = {"particles": 2, "vectorized": True, "max_plate_nesting": 1}
    mean = found.mean(lambda pair: an.infer.log_evidence(*pair, **options).surrogate)

    v = found.leaves()
    z = [each.detach() for each in found.case.draws(v, found.noise)]
    share = torch.softmax(of_prior(v, z), 0).detach()
    log_p = Normal(v[0], 1.0).log_prob(z[0]) + Normal(z[0] + v[0] * z[1], 0.9).log_prob(X[0])
    log_p = log_p + coin(v[3] + v[1] * z[0]).log_prob(z[1])
    weighed = (found.log_prob(v).detach().exp() * (share * log_p).sum(0)).sum()
    truth = torch.autograd.grad(-weighed, v, materialize_grads=True)
    torch.testing.assert_close(mean, torch.stack(truth).sum(1), rtol=0, atol=1e-8)


# --- The sleep phase, ranks, and divergences in closed form ---


def test_asleep_the_guide_learns_from_what_the_model_draws() -> None:
    p, s, w = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.4, 0.7, -0.5))
    data = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)

    def model(x: Tensor) -> None:
        with an.plate("data", 3):
            z = an.sample("z", coin(p))
            an.sample("x", coin(s * z), obs=x)

    def guide(x: Tensor) -> None:
        with an.plate("data", 3):
            an.sample("z", coin(w * x))

    total, zeros = torch.zeros((), dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for z, x in itertools.product((0.0, 1.0), repeat=2):
        z_, x_ = zeros[0] + z, zeros[0] + x
        chance = (coin(p).log_prob(z_) + coin(s * z_).log_prob(x_)).exp().detach()
        total = total - 3 * chance * coin(w * x_).log_prob(z_)
    (truth,) = torch.autograd.grad(total, w)
    found = zeros[0]
    for outcome in itertools.product((0.0, 1.0), repeat=6):
        # The draws awake are of mean zero for the guide: its wake phase counts nothing.
        z, x = torch.tensor(outcome, dtype=torch.float64).reshape(2, 3)
        left = iter([zeros, zeros, z, x])

        def next_of(_: Any, shape: Any, left: Any = left) -> Tensor:
            return next(left).reshape(shape).clone()  # type: ignore[no-any-return]

        with forcing(next_of):
            bound = an.infer.wake_sleep(model, guide, data, sleep=1.0)
        (gradient,) = torch.autograd.grad(bound.surrogate, w)
        chance = (coin(p).log_prob(z) + coin(s * z).log_prob(x)).sum().exp().detach()
        found = found + chance * gradient
    torch.testing.assert_close(found, truth, **EXACT)


def test_a_sleep_phase_needs_the_data_as_an_argument_and_sites_alone() -> None:
    def guide(x: Tensor) -> None:
        an.sample("z", Normal(x.mean(), 1.0))

    def captured(x: Tensor) -> None:
        an.sample("x", Normal(an.sample("z", Normal(0.0, 1.0)), 1.0), obs=X)

    def weighed(x: Tensor) -> None:
        an.factor("f", an.sample("z", Normal(0.0, 1.0)))

    with pytest.raises(GuideError, match=r"site 'x' .*observes what is no argument"):
        an.infer.wake_sleep(captured, guide, X.clone(), sleep=1.0)
    with pytest.raises(GuideError, match=r"factor 'f' .*nobody can draw from"):
        an.infer.wake_sleep(weighed, guide, X, sleep=1.0)


def test_ranks_weigh_the_paths_of_a_tail_adaptive_divergence() -> None:
    found = outcomes(CHAIN, 2, 12)
    options: dict[str, Any] = {"particles": 2, "vectorized": True, "max_plate_nesting": 1}
    mean = found.mean(lambda pair: an.infer.tail_adaptive(*pair, **options).surrogate)
    v = found.leaves()
    z = found.case.draws(v, found.noise)
    # Only the draws carry a gradient: the densities are of constants.
    held = [each.detach() for each in v]
    log_w = found.case.log_p(held, z) - found.case.log_q(held, z)
    order = log_w.detach().argsort(0, descending=True).argsort(0)  # 0 is the largest
    rank = (1 + order).double() ** -1
    objective = (found.log_prob(v).detach().exp() * (rank / rank.sum(0) * log_w).sum(0)).sum()
    truth = torch.autograd.grad(-objective, v, materialize_grads=True)
    torch.testing.assert_close(mean, torch.stack(truth).sum(1), rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", ["chain", "plated", "masked", "branching", "auxiliary"])
def test_divergences_in_closed_form_leave_the_mean(name: str) -> None:
    values, case = parameters(), CASES[name]

    def estimate(objective: Estimate) -> Estimate:
        return lambda _, v: derivatives(objective(*case.build(*v), baseline=None).surrogate, v)

    ours, sampled = (
        moments(case.reference, values, estimate(each))
        for each in (an.infer.mean_field, an.infer.elbo)
    )
    torch.testing.assert_close(ours.mean, sampled.mean, **EXACT)
    assert not torch.equal(ours.variance, sampled.variance) or name == "auxiliary"


def test_a_divergence_takes_no_draw_and_is_left_out_where_it_would_be_another() -> None:
    loc = torch.tensor(0.5, requires_grad=True)
    normal = Normal(torch.tensor(0.0), 1.0)

    def model() -> None:
        a = an.sample("a", normal)
        an.sample("b", Normal(a, 1.0))

    def forward() -> None:
        a = an.sample("a", Normal(loc, 2.0))
        an.sample("b", Normal(loc, 2.0))
        assert a.ndim == 0

    def backward() -> None:
        b = an.sample("b", Normal(loc, 2.0))
        an.sample("a", Normal(b, 2.0))

    def value_of(guide: Callable[[], None], z: dict[str, float]) -> Tensor:
        with an.handlers.substitute({k: torch.tensor(x) for k, x in z.items()}):
            return an.infer.mean_field(model, guide).value

    kl = kl_divergence(Normal(loc, 2.0), normal)
    known = kl + kl_divergence(Normal(loc, 2.0), Normal(torch.tensor(1.5), 1.0))
    torch.manual_seed(0)
    with an.record() as trace:
        forward()
    draw = trace["a"].value
    torch.manual_seed(0)
    expected = kl + kl_divergence(Normal(loc, 2.0), Normal(draw, 1.0))
    torch.testing.assert_close(an.infer.mean_field(model, forward).value, -expected.detach())
    assert known.isfinite()
    # The model's b depends on a, which the guide draws below b: log-probabilities stay.
    torch.manual_seed(0)
    value = an.infer.mean_field(model, backward).value
    torch.manual_seed(0)
    with an.record() as trace:
        backward()
    a, b = trace["a"].value, trace["b"].value
    log_ratio = Normal(loc, 2.0).log_prob(b) - Normal(a, 1.0).log_prob(b)
    expected = log_ratio + kl_divergence(Normal(b, 2.0), normal)
    torch.testing.assert_close(value, -expected.detach())


# --- Peers ---


def pyro_pair(q: Tensor, p: Tensor) -> tuple[Callable[[], None], Callable[[], None]]:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(pyro.param("p", p), 1.0))
        pyro.sample("x", dist.Normal(z, 0.7), obs=X[0])

    def guide() -> None:
        pyro.sample("z", dist.Normal(pyro.param("q", q), 0.8))

    return model, guide


@pytest.mark.parametrize("alpha", [0.0, 0.4, 2.0, -0.5])
def test_the_bound_of_renyi_is_that_of_pyro_at_the_same_draws(alpha: float) -> None:
    q, p = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.3, -0.2))

    def model() -> None:
        an.sample("x", Normal(an.sample("z", Normal(p, 1.0)), 0.7), obs=X[0])

    def guide() -> None:
        an.sample("z", Normal(q, 0.8))

    torch.manual_seed(0)
    pyro.clear_param_store()
    loss = pyro.infer.RenyiELBO(alpha=alpha, num_particles=5)
    theirs = loss.loss_and_grads(*pyro_pair(q.detach(), p.detach()))
    params: Any = [pyro.param(name) for name in ("q", "p")]
    theirs_q, theirs_p = (each.unconstrained().grad for each in params)
    torch.manual_seed(0)
    ours = an.infer.renyi(model, guide, alpha=alpha, particles=5, pathwise="plain")
    gradients = torch.autograd.grad(ours.surrogate, (q, p))
    torch.testing.assert_close(-ours.value.item(), theirs)
    torch.testing.assert_close(gradients, (theirs_q, theirs_p))


NUMPYRO = {  # RenyiELBO of NumPyro 0.22 at these draws: loss, and its gradient by q and p
    0.0: (1.0717796293563735, 0.8712125929744343, -0.6220766245352166),
    0.4: (1.077875873895472, 0.9344852341424167, -0.6428844058589156),
    2.0: (1.10221000249507, 1.1744480344354287, -0.7217983468948724),
}
DRAWS = [
    *(-0.08098133515820377, 0.4251178572105221, 0.796581999943725),
    *(0.5657081319950776, 0.6607949825473477),
]


def at_draws(draws: list[float], run: Callable[[], Any]) -> Any:
    left = [torch.tensor(z, dtype=torch.float64) for z in draws]

    def force(fn: Any, _: torch.Size) -> Tensor:
        z = left.pop(0)
        return fn.loc + (z - fn.loc.detach()) if isinstance(fn, Normal) else z

    with forcing(force):
        return run()


def pair_of(q: Tensor, p: Tensor, kind: str) -> tuple[Callable[[], None], Callable[[], Any]]:
    def prior(of: Tensor, scale: float) -> Any:
        return Normal(of, scale) if kind == "normal" else coin(of)

    def model() -> None:
        an.sample("x", Normal(an.sample("z", prior(p, 1.0)), 0.7), obs=X[0])

    return model, lambda: an.sample("z", prior(q, 0.8))


@pytest.mark.parametrize("alpha", NUMPYRO)
def test_the_bound_of_renyi_is_that_of_numpyro_at_the_same_draws(alpha: float) -> None:
    q, p = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.3, -0.2))
    pair = pair_of(q, p, "normal")
    options: dict[str, Any] = {"alpha": alpha, "pathwise": "plain"}
    bound = at_draws(DRAWS, lambda: an.infer.renyi(*pair, particles=5, **options))
    found = torch.stack([-bound.value, *torch.autograd.grad(bound.surrogate, (q, p))])
    torch.testing.assert_close(found, torch.tensor(NUMPYRO[alpha], dtype=torch.float64), **EXACT)


NORMALS, COINS = [-0.08, 0.42, 0.79, 0.56, -0.66], [0.0, 1.0, 1.0, 0.0, 1.0]
LOSS = 1.0549501083117736
TFP: list[tuple[str, list[float], str, tuple[float, ...]]] = [  # version 0.25, as above
    ("normal", NORMALS, "plain", (LOSS, 0.11498494335636539, -0.373384310231288)),
    # Of the model it squares the weights too, which is biased: that is left out.
    ("normal", NORMALS, "dreg", (LOSS, 0.05573367078570211)),
    (
        "coin",
        [0, 1, 1, 0, 1],
        "auto",
        (0.841115505408958, 0.08345566138728999, 0.07325920102354286),
    ),
]


@pytest.mark.parametrize(("kind", "draws", "pathwise", "expected"), TFP)
def test_vimco_and_dreg_are_those_of_tensorflow_probability_at_the_same_draws(
    kind: str, draws: list[float], pathwise: Any, expected: tuple[float, ...]
) -> None:
    q, p = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (0.3, -0.2))
    pair = pair_of(q, p, kind)
    bound = at_draws(draws, lambda: an.infer.iwae(*pair, particles=5, pathwise=pathwise))
    found = torch.stack([-bound.value, *torch.autograd.grad(bound.surrogate, (q, p))])
    truth = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found[: len(truth)], truth, **EXACT)


# --- Wrong uses ---


class Halves(nn.Module):
    """A pair of a coin and data, of which each can go wrong."""

    def forward(self, x: Tensor) -> None:
        z = an.sample("z", coin(torch.zeros((), dtype=torch.float64)))
        an.sample("x", Normal(z, 1.0), obs=x)


def draws_z(x: Tensor) -> None:
    an.sample("z", coin(x.mean()))


ALL = ("iwae", "log_evidence", "forward_kl", "wake_sleep", "thermodynamic", "tail_adaptive")


@pytest.mark.parametrize("name", ALL)
def test_what_is_wrong_with_a_call_is_refused(name: str) -> None:
    objective = getattr(an.infer, name)
    for count in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match="particles must be an int greater than"):
            objective(Halves(), draws_z, X[0], particles=count)
    for dims in (-1, 1.0, True):
        with pytest.raises(ValueError, match="max_plate_nesting must be an int, not negative"):
            objective(Halves(), draws_z, X[0], max_plate_nesting=dims, particles=2)
    with pytest.raises(TypeError, match=f"{name} takes no num_particles=.*: say particles="):
        objective(Halves(), draws_z, X[0], num_particles=3)
    with pytest.raises(TypeError, match=f"{name} takes the guide as a function"):
        objective(Halves(), draws_z(X[0]), X[0])  # type: ignore[func-returns-value]
    with pytest.raises(GuideError, match=r"site 'z' .*expected the guide to draw it"):
        objective(Halves(), lambda _: None, X[0], particles=2)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("renyi", {"alpha": 1}, "other than 1, where .*use an.infer.elbo"),
        ("renyi", {"alpha": 1.0}, "other than 1, where .*use an.infer.elbo"),
        ("renyi", {"alpha": math.nan}, "alpha must be a finite number"),
        ("renyi", {"alpha": True}, "alpha must be a finite number"),
        ("renyi", {"alpha": "1"}, "alpha must be a finite number"),
        ("iwae", {"pathwise": "path"}, "pathwise must be 'auto'"),
        ("iwae", {"estimator": "vimco"}, "estimator must be 'auto'"),
        ("forward_kl", {"power": 0.0}, "power must be a number above 0"),
        ("forward_kl", {"power": 1.5}, "power must be a number above 0"),
        ("forward_kl", {"particles": 1}, "particles must be an int greater than 1"),
        ("wake_sleep", {"sleep": -0.1}, "sleep must be a number from 0 to 1"),
        ("tail_adaptive", {"power": 1.0}, "power must be a finite number, at most 0"),
        ("thermodynamic", {"betas": (0.0, 0.5)}, "betas must be ascending"),
        ("thermodynamic", {"betas": (0.0, 0.5, 0.5, 1.0)}, "betas must be ascending"),
        ("thermodynamic", {"betas": 3}, "betas must be ascending"),
        ("thermodynamic", {"gradient": "dreg"}, "gradient must be 'unbiased'"),
        ("multi_sample", {"function": lambda x: x}, "expected a tensor of shape"),
    ],
)
def test_a_number_or_a_choice_that_is_none_is_refused(
    name: str, options: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        getattr(an.infer, name)(Halves(), draws_z, X[0], **options)


def test_a_baseline_and_a_function_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match="baseline must be 'auto', None"):
        an.infer.iwae(Halves(), draws_z, X[0], baseline="vmico")  # type: ignore[arg-type] # wrong
    with pytest.raises(TypeError, match="function must be a function of log-weights"):
        an.infer.multi_sample(Halves(), draws_z, X[0], function=3)  # type: ignore[arg-type] # wrong


def test_what_cannot_be_weighed_is_refused_with_its_line() -> None:
    def partly(x: Tensor) -> None:
        Halves()(X[0])
        with an.plate("data", 4, subsample_size=2):
            an.sample("y", Normal(0.0, 1.0), obs=an.subsample(x))

    def enumerated(x: Tensor) -> None:
        with an.handlers.enumerate(first_dim=-1):
            Halves()(x)

    def infinite(x: Tensor) -> None:
        Halves()(x)
        an.factor("f", x.new_tensor(-math.inf))

    with pytest.raises(WeightError, match=r"site 'y' .*test_objectives.py:\d+.*subsampled"):
        an.infer.iwae(partly, draws_z, X, particles=2)
    with pytest.raises(EnumerationError, match=r"site 'z' .*use an.infer.elbo"):
        an.infer.iwae(enumerated, draws_z, X[0], particles=2)
    with pytest.raises(NonFiniteDensityError, match=r"site 'f' .*of the model"):
        an.infer.iwae(infinite, draws_z, X[0], particles=2)
    with pytest.raises(GuideError, match=r"site 'z' .*is not reparameterized"):
        an.infer.tail_adaptive(Halves(), lambda _: an.sample("z", coin(LOGIT)), X[0])


LOGIT = torch.tensor(0.2, dtype=torch.float64).requires_grad_()


def test_a_compiled_step_says_that_it_scores_sums_of_terms_only() -> None:
    step = an.compile(lambda x: an.infer.iwae(Halves(), draws_z, x, particles=2).surrogate)
    with pytest.raises(TypeError, match=r"within an.compile, an.infer.iwae"):
        step(X[0])


def test_without_gradients_there_is_a_value() -> None:
    with torch.no_grad():
        bound = an.infer.iwae(Halves(), draws_z, X[0], particles=3)
    assert bound.value.isfinite()
    assert not bound.surrogate.requires_grad
