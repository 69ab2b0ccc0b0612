"""Paths of bounds: sticking the landing, doubly reparameterized, and where neither may be."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from outcomes_of_draws import CHAIN, COIN_AFTER, Outcomes, Programs, outcomes, plated
from programs.pairs import coin
from torch import Tensor
from torch.distributions import Normal, Uniform

import ancestral as an
from ancestral.errors import (
    BiasedGradientWarning,
    DerivativeOrderError,
    GuideError,
    SiteError,
)

X = torch.tensor([0.3, -1.2, 0.8, 1.7], dtype=torch.float64)


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
