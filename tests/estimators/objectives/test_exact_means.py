"""The mean of every objective and of its gradient over all outcomes, beside its formula."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from outcomes_of_draws import CASES, Outcomes, Programs, X, outcomes
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Normal

import ancestral as an
from ancestral.errors import LossError, WeightError
from oracles import forcing

EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-8}
EVERY = [("coins", 1), ("coins", 3), ("after", 1), ("after", 2), ("before", 2), ("chain", 1)]
KNOWN: dict[tuple[str, int], Outcomes] = {}


def all_outcomes(name: str, particles: int) -> Outcomes:
    nodes = 14 if (name, particles) == ("chain", 2) else 60 if name == "before" else 40
    key = (name, particles)
    if key not in KNOWN:
        KNOWN[key] = outcomes(CASES[name], particles, nodes)
    return KNOWN[key]


def run(objective: Callable[..., Any], particles: int, **options: Any) -> Callable[[Programs], Any]:
    """Return what calls an objective on a pair, for all outcomes at once."""
    options = {"particles": particles, "vectorized": True, "max_plate_nesting": 1, **options}
    return lambda pair: objective(*pair, **options)


def own_baseline(particles: int) -> dict[str, Any]:
    """The other examples are other outcomes here, which no baseline may depend on."""
    return {} if particles > 1 else {"baseline": None}


def log_mean(log_weights: Tensor) -> Tensor:
    return torch.logsumexp(log_weights, 0) - math.log(len(log_weights))


def vr(alpha: float) -> Callable[[Tensor], Tensor]:
    return lambda x: log_mean((1 - alpha) * x) / (1 - alpha)


def riemann(betas: tuple[float, ...], at: int) -> Callable[[Tensor], Tensor]:
    def total(x: Tensor) -> Tensor:
        parts = []
        for step in itertools.pairwise(betas):
            weight = (step[at] * x).exp()
            parts.append((step[1] - step[0]) * (weight * x).sum(0) / weight.sum(0))
        return torch.stack(parts).sum(0)

    return total


BETAS = (0.0, 0.3, 1.0)
BOUNDS: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[[Tensor], Tensor]]] = {
    "iwae": (an.infer.iwae, {}, log_mean),
    "renyi": (an.infer.renyi, {"alpha": 0.4}, vr(0.4)),
    "renyi above": (an.infer.renyi, {"alpha": 2.0}, vr(2.0)),
    "renyi below": (an.infer.renyi, {"alpha": -0.5}, vr(-0.5)),
    "thermodynamic": (an.infer.thermodynamic, {"betas": BETAS}, riemann(BETAS, 0)),
    "upper": (an.infer.thermodynamic, {"betas": BETAS, "is_upper": True}, riemann(BETAS, 1)),
    "own": (
        an.infer.multi_sample,
        {"function": lambda x: x.mean(0) - 0.1 * x.var(0, correction=0)},
        lambda x: x.mean(0) - 0.1 * x.var(0, correction=0),
    ),
}


@pytest.mark.parametrize(
    ("bound", "name", "particles"),
    [*((bound, *case) for bound in BOUNDS for case in EVERY), ("iwae", "chain", 2)],
)
def test_the_mean_gradient_of_a_bound_is_exact(bound: str, name: str, particles: int) -> None:
    objective, options, function = BOUNDS[bound]
    found = all_outcomes(name, particles)
    truth = -found.truth(lambda log_p, log_q: function(log_p - log_q))
    options = {**options, **own_baseline(particles)}
    for pathwise in ("plain", "dreg") if "n" in found.case.kinds else ("auto",):
        estimate = run(objective, particles, pathwise=pathwise, **options)
        mean = found.mean(lambda pair, go=estimate: go(pair).surrogate)  # type: ignore[misc]
        torch.testing.assert_close(mean, truth, **EXACT)


def test_of_one_draw_each_is_the_bound_of_evidence_and_so_is_its_gradient() -> None:
    found = all_outcomes("coins", 1)
    truth = -found.truth(lambda log_p, log_q: (log_p - log_q).sum(0))
    torch.testing.assert_close(-found.truth(lambda p, q: log_mean(p - q)), truth)
    elbo = found.mean(lambda pair: an.infer.elbo(*pair, baseline=None).surrogate)
    torch.testing.assert_close(elbo, truth, **EXACT)


# --- Draws that are alike: an outcome is how many of them are heads ---


Estimate = Callable[..., Any]


def coins(particles: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return parameters and log-probability of each count, and draws [particles, counts]."""
    size = particles + 1
    values = [torch.full((size,), x, dtype=torch.float64) for x in (0.3, -0.4, 0.8)]
    heads = torch.arange(size)
    draws = (torch.arange(particles)[:, None] < heads).double()
    q, p, s = (value.requires_grad_() for value in values)
    return [q, p, s], Binomial(particles, logits=q).log_prob(heads.double()), draws


def log_p_of_coin(v: list[Tensor], z: Tensor) -> Tensor:
    return Bernoulli(logits=v[1]).log_prob(z) + Normal(z * v[2], 1.0).log_prob(X)  # type: ignore[no-any-return]


def log_q_of_coin(v: list[Tensor], z: Tensor) -> Tensor:
    return Bernoulli(logits=v[0]).log_prob(z)  # type: ignore[no-any-return]


def mean_of_coin(objective: Estimate, particles: int, **options: Any) -> tuple[Tensor, Tensor]:
    """Return the mean log-mean-weight of a coin, and the mean gradient of an objective, [3]."""
    v, log_prob, draws = coins(particles)
    q, p, s = v
    size = len(q)

    def model() -> None:
        with an.plate("data", size):
            z = an.sample("z", Bernoulli(logits=p))
            an.sample("x", Normal(z * s, 1.0), obs=X.expand(size))

    def guide() -> None:
        with an.plate("data", size):
            an.sample("z", Bernoulli(logits=q))

    with forcing(lambda _, shape: draws.reshape(shape).clone()):
        bound = run(objective, particles, **options)((model, guide))
    weights = log_prob.detach().exp()
    gradient = torch.stack(torch.autograd.grad(bound.surrogate, v, materialize_grads=True))
    return (log_mean(bound.log_weights) * weights).sum(), -(gradient @ weights)


@pytest.mark.parametrize("particles", [1, 2, 5, 64])
def test_the_importance_weighted_bound_of_a_coin_is_exact(particles: int) -> None:
    v, log_prob, draws = coins(particles)
    exact = (log_prob.exp() * log_mean(log_p_of_coin(v, draws) - log_q_of_coin(v, draws))).sum()
    truth = torch.stack(torch.autograd.grad(exact, v)).sum(1)
    value, gradient = mean_of_coin(an.infer.iwae, particles, **own_baseline(particles))
    torch.testing.assert_close(value, exact.detach())
    torch.testing.assert_close(gradient, truth, **EXACT)
    assert truth.abs().min() > 1e-4


LIMITS: dict[str, dict[str, Any]] = {
    "log_evidence": {},
    "forward_kl": {},
    "thermodynamic": {"betas": (0.0, 0.3, 1.0), "gradient": "covariance"},
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_bias_of_self_normalized_weights_falls_as_one_over_the_draws(name: str) -> None:
    v = [x[:2] for x in coins(2)[0]]
    z = torch.tensor([0.0, 1.0], dtype=torch.float64)
    log_p, log_q = log_p_of_coin(v, z), log_q_of_coin(v, z)
    posterior = torch.softmax(log_p, 0).detach()

    def height(beta: float) -> Tensor:
        path = torch.softmax((1 - beta) * log_q + beta * log_p, 0)
        return (path * (log_p - log_q)).sum()

    limit = {
        "log_evidence": torch.logsumexp(log_p, 0),
        "forward_kl": (posterior * log_q).sum(),
        "thermodynamic": 0.3 * height(0.0) + 0.7 * height(0.3),
    }[name]
    truth = torch.stack(torch.autograd.grad(limit, v, materialize_grads=True)).sum(1)
    few, many = (
        mean_of_coin(getattr(an.infer, name), k, **LIMITS[name])[1] - truth for k in (64, 128)
    )
    assert many.abs().max() < 0.01
    torch.testing.assert_close(many, few / 2, rtol=0.05, atol=1e-5)


# --- Models in plain torch ---


@pytest.mark.parametrize("pathwise", ["plain", "auto"])
@pytest.mark.parametrize("name", ["coins", "after", "before"])
def test_log_weights_of_plain_torch_have_the_same_mean_gradient(name: str, pathwise: Any) -> None:
    """Nothing is declared: that the draws and the examples are apart is found."""
    particles = 3 if name == "coins" else 2
    found = all_outcomes(name, particles)

    def estimate(v: list[Tensor]) -> Tensor:
        with an.record():
            if name == "after":
                y = Normal(v[2], (0.2 * v[3] - 0.4).exp()).rsample((particles,))
            else:
                y = Bernoulli(logits=v[2]).sample((particles,))
            if name == "before":
                z = Normal(v[3] * y + v[1], (0.2 * v[2] - 0.4).exp()).rsample()
            else:
                z = Bernoulli(logits=v[3] + v[1] * y).sample()
            log_weights = found.case.log_p(v, [y, z]) - found.case.log_q(v, [y, z])
        bound = an.infer.of_log_weights(log_weights, pathwise=pathwise)
        torch.testing.assert_close(bound.value, log_mean(bound.log_weights).sum())
        return bound.surrogate

    truth = -found.truth(lambda log_p, log_q: log_mean(log_p - log_q))
    gradient, weights = found.gradients(estimate)
    torch.testing.assert_close(gradient @ weights, truth, **EXACT)


def test_draws_that_rows_of_log_weights_share_are_refused() -> None:
    logits = torch.zeros(3, requires_grad=True)
    for shared in (False, True):
        with an.record():
            z = Bernoulli(logits=logits).sample(() if shared else (4,))
            other = Normal(logits, 1.0).rsample((4,))
            log_weights = Normal(z, 1.0).log_prob(other)
        if shared:
            with pytest.raises(WeightError, match=r"site 'z' .*draw with the K as a dimension"):
                an.infer.of_log_weights(log_weights)
        else:
            assert an.infer.of_log_weights(log_weights).surrogate.requires_grad
    wrong: list[tuple[Any, type[Exception], str]] = [
        (3, TypeError, "log_weights must be a tensor, not an int"),
        (torch.zeros(3), LossError, "depends on no draw of a recording"),
        (log_weights.sum(), LossError, r"log_weights has shape \[\]"),
        (log_weights / 0, WeightError, "of 12 log-weights are NaN or infinite"),
    ]
    for given, error, text in wrong:
        with pytest.raises(error, match=text):
            an.infer.of_log_weights(given)


# --- Draws that are held fixed ---


def share(log_weights: Tensor, power: float = 1.0) -> Tensor:
    return torch.softmax(power * log_weights.detach(), 0)


def covariance(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The gradient of Masrani et al., equation 11, with each moment written out."""
    log_w, total = log_p - log_q, torch.zeros(())
    for low, high in itertools.pairwise(BETAS):
        weight, height = share(log_w, low), log_w.detach()
        mean = (weight * height).sum(0)
        path = (1 - low) * log_q + low * log_p
        mean_path = (weight * path).sum(0)
        cov = (weight * (path - mean_path) * (height - mean)).sum(0)
        total = total + (high - low) * ((weight * log_w).sum(0) + cov)
    return total


HELD: dict[str, tuple[Callable[..., Any], dict[str, Any], Callable[[Tensor, Tensor], Tensor]]] = {
    "log_evidence": (an.infer.log_evidence, {}, lambda p, q: (share(p - q) * p).sum(0)),
    "forward_kl": (an.infer.forward_kl, {}, lambda p, q: (share(p - q) * q).sum(0)),
    "tempered": (
        an.infer.forward_kl,
        {"power": 0.5},
        lambda p, q: (share(p - q, 0.5) * q).sum(0),
    ),
    "wake_wake": (an.infer.wake_sleep, {}, lambda p, q: (share(p - q) * (p + q)).sum(0)),
    "covariance": (
        an.infer.thermodynamic,
        {"betas": BETAS, "gradient": "covariance"},
        covariance,
    ),
}


@pytest.mark.parametrize(("name", "particles"), [("coins", 3), ("after", 2), ("before", 2)])
@pytest.mark.parametrize("objective", HELD)
def test_the_mean_gradient_with_draws_held_fixed_is_that_of_the_formula(
    objective: str, name: str, particles: int
) -> None:
    function, options, formula = HELD[objective]
    found = all_outcomes(name, particles)
    mean = found.mean(lambda pair: run(function, particles, **options)(pair).surrogate)
    torch.testing.assert_close(mean, -found.held(formula), **EXACT)


def test_the_gradient_of_log_evidence_is_that_of_the_importance_weighted_bound() -> None:
    """For what the model alone has: of the coins, the first parameter."""
    found = all_outcomes("coins", 3)
    truth = found.truth(lambda log_p, log_q: log_mean(log_p - log_q))
    mean = found.mean(lambda pair: run(an.infer.log_evidence, 3)(pair).surrogate)
    torch.testing.assert_close(-mean[0], truth[0], **EXACT)
    assert truth[0].abs() > 0.01
