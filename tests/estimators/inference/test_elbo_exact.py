"""The gradient of the evidence lower bound against exact enumeration of small pairs."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from programs.pairs import CASES, MASK, Build, X, chain, coin, parameters, plated
from torch import Tensor
from torch.distributions import Categorical, Normal

import ancestral as an
import oracles
from ancestral.estimators.inference.particles import nesting
from oracles import Estimate, Moments, Program, derivatives, exact_gradient, moments, paths


def estimating(build: Build, **options: Any) -> Estimate:
    """Return what estimates the gradient of the negative bound from one run."""

    def estimate(_: Program, values: Any) -> Tensor:
        return derivatives(an.infer.elbo(*build(*values), **options).surrogate, values)

    return estimate


def mean_of(program: Program, count: int) -> Program:
    def averaged(*values: Tensor) -> Tensor:
        return torch.stack([program(*values) for _ in range(count)]).mean()

    return averaged


EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_the_bound_and_of_its_gradient_is_exact(name: str) -> None:
    found, values = CASES[name], parameters()

    def estimate(_: Program, values: Any) -> Tensor:
        result = an.infer.elbo(*found.build(*values))
        torch.testing.assert_close(result.value, -result.surrogate.detach())
        return torch.cat([derivatives(result.surrogate, values), result.value[None]])

    mean = moments(found.reference, values, estimate).mean
    truth = exact_gradient(found.reference, values)
    assert truth.abs().max() > 0.05
    torch.testing.assert_close(mean[:-1], truth, **EXACT)
    expected = sum(path.log_prob.exp() * path.loss for path in paths(found.reference, values))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(mean[-1], -expected.detach(), **EXACT)


LOOPED = {"chain": 2, "auxiliary": 2, "branching": 3}


@pytest.mark.parametrize(("name", "particles"), LOOPED.items())
def test_particles_in_turn_have_the_same_mean(name: str, particles: int) -> None:
    found = CASES[name]
    values = parameters()
    program = mean_of(found.reference, particles)
    estimate = estimating(found.build, particles=particles)
    single = moments(found.reference, values, estimating(found.build))
    several = moments(program, values, estimate)
    torch.testing.assert_close(several.mean, exact_gradient(found.reference, values), **EXACT)
    torch.testing.assert_close(several.variance, single.variance / particles, **EXACT)


# --- Subsampled plates: every choice of indices is enumerated ---


def subsampled_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    """Return the negative bound with all of the data."""
    qg = coin(s)
    g = qg.sample()
    qz = coin(q + 0.5 * g)
    z = qz.sample()
    kl = qz.log_prob(z) - coin(p[1] + g).log_prob(z)
    fit = Normal(z * s + g, 0.9).log_prob(X)
    return qg.log_prob(g) - coin(p[0]).log_prob(g) + kl.sum() - fit.sum()


def subsampled(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def model() -> None:
        g = an.sample("g", coin(p[0]))
        with an.plate("data", 3, subsample_size=2):
            z = an.sample("z", coin(p[1] + g))
            an.sample("x", Normal(z * s + g, 0.9), obs=an.subsample(X))

    def guide() -> None:
        g = an.sample("g", coin(s))
        with an.plate("data", 3, subsample_size=2) as index:
            an.sample("z", coin(q[index] + 0.5 * g))

    return model, guide


def thinned_loss(index: Tensor) -> Program:
    """Return what one choice of indices makes of it, drawing as the guide does."""

    def loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
        qg = coin(s)
        g = qg.sample()
        qz = coin(q[index] + 0.5 * g)
        z = qz.sample()
        kl = qz.log_prob(z) - coin(p[1] + g).log_prob(z)
        fit = Normal(z * s + g, 0.9).log_prob(X[index])
        return qg.log_prob(g) - coin(p[0]).log_prob(g) + 1.5 * (kl.sum() - fit.sum())

    return loss


def test_guide_and_model_share_a_subsample_and_estimate_the_gradient_of_the_whole() -> None:
    values = parameters()
    found: list[Tensor] = []
    for order in itertools.permutations(range(3)):
        chosen = torch.tensor(order)
        program = thinned_loss(chosen[:2])
        with mock.patch.object(torch, "randperm", lambda _, order=chosen: order):
            mean = moments(program, values, estimating(subsampled)).mean
        torch.testing.assert_close(mean, exact_gradient(program, values), **EXACT)
        found.append(mean)
    whole = exact_gradient(subsampled_loss, values)
    torch.testing.assert_close(torch.stack(found).mean(0), whole, **EXACT)


# --- Credit ---


def test_elements_of_a_plate_get_their_own_credit() -> None:
    """Element by element the variance is lower than site by site, the mean the same."""
    values = parameters()
    reference = CASES["plated"].reference
    by_element = moments(reference, values, estimating(plated))
    by_site = moments(reference, values, estimating(plated, credit=an.estimators.by_site))
    total = moments(reference, values, estimating(plated, credit=an.estimators.total_cost))
    torch.testing.assert_close(by_site.mean, by_element.mean, **EXACT)
    torch.testing.assert_close(total.mean, by_element.mean, **EXACT)
    local = slice(0, 3)  # the parameters of the guide within the plate
    assert (by_element.variance[local] < 0.7 * by_site.variance[local]).all()
    assert (by_site.variance[local] < total.variance[local]).all()


def test_leave_one_out_uses_the_other_particles() -> None:
    values = parameters()
    options = {"particles": 3, "vectorized": True, "max_plate_nesting": 0}
    plain = moments(chain_batch, values, estimating(chain, baseline=None, **options))
    less = moments(chain_batch, values, estimating(chain, **options))
    torch.testing.assert_close(less.mean, plain.mean, **EXACT)
    assert less.variance[:2].sum() < 0.5 * plain.variance[:2].sum()


def test_what_python_decided_in_the_guide_does_not_blur_the_sites_before() -> None:
    """The first site is credited with its own density though Python branches on the second."""

    def loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
        qa, qb = coin(q[0]), coin(q[1])
        a = qa.sample()
        b = qb.sample()
        fit = Normal(a * s, 1.0).log_prob(X[0])
        kl = qa.log_prob(a) + qb.log_prob(b) - coin(p[0]).log_prob(a) - coin(p[1]).log_prob(b)
        tail = Normal(s, 1.0).log_prob(X[1]) if b.item() > 0 else torch.zeros_like(s)
        return kl - fit - tail

    def build(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
        def model() -> None:
            a = an.sample("a", coin(p[0]))
            an.sample("x", Normal(a * s, 1.0), obs=X[0])
            b = an.sample("b", coin(p[1]))
            if b.item() > 0:
                an.sample("y", Normal(s, 1.0), obs=X[1])

        def guide() -> None:
            an.sample("a", coin(q[0]))
            an.sample("b", coin(q[1]))

        return model, guide

    values = parameters()
    found = moments(loss, values, estimating(build))
    torch.testing.assert_close(found.mean, exact_gradient(loss, values), **EXACT)

    # Site a alone decides on its own part of the bound: its credit is that part.
    def part(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
        qa = coin(q[0])
        a = qa.sample()
        return qa.log_prob(a) - coin(p[0]).log_prob(a) - Normal(a * s, 1.0).log_prob(X[0])

    def alone(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
        def model() -> None:
            a = an.sample("a", coin(p[0]))
            an.sample("x", Normal(a * s, 1.0), obs=X[0])

        def guide() -> None:
            an.sample("a", coin(q[0]))

        return model, guide

    own = moments(part, values, estimating(alone))
    torch.testing.assert_close(found.variance[0], own.variance[0], **EXACT)


# The mean over particles, drawn as one batch: [particles, *batch, *event].


def chain_batch(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qa = coin(q[0].expand(3))
    a = qa.sample()
    qb = coin(q[1] + s * a)
    b = qb.sample()
    joint = coin(p[0]).log_prob(a) + coin(p[1] * a).log_prob(b)
    joint = joint + Normal(a - b * s, 0.7).log_prob(X[0])
    return (qa.log_prob(a) + qb.log_prob(b) - joint).mean()


def plated_batch(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qg = coin(s.expand(2, 1))
    g = qg.sample()
    qz = coin(q + 0.5 * g)
    z = qz.sample()
    loss = qg.log_prob(g) - coin(p[0]).log_prob(g)
    kl = qz.log_prob(z) - coin(p[1] + g).log_prob(z)
    fit = torch.where(MASK, Normal(z * s + g, 0.9).log_prob(X), 0.0)
    extra = (z * s).square()
    return (loss.sum() + 0.3 * kl.sum() - 2.0 * fit.sum() - extra.sum()) / 2


def mixed_batch(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qk = Categorical(logits=q[1:].expand(2, 2))
    k = qk.sample()
    loc = (p.new_tensor([0.2, -0.4])[k] * s)[..., None]
    qn = Normal(loc, (0.3 * q[:2]).exp())
    n = qn.rsample()
    qb = coin(n[..., 0] * q[2])
    b = qb.sample()
    joint = Categorical(logits=torch.stack([p[0], s])).log_prob(k)
    joint = joint + Normal(p, 1.3).log_prob(n).sum(-1) + coin(n.sum(-1)).log_prob(b)
    joint = joint + Normal(n * b[..., None], 0.8).log_prob(X[:2]).sum(-1)
    return (qk.log_prob(k) + qn.log_prob(n).sum(-1) + qb.log_prob(b) - joint).mean()


TOGETHER = {"chain": (chain_batch, 3), "plated": (plated_batch, 2), "mixed": (mixed_batch, 2)}


@pytest.mark.parametrize("name", TOGETHER)
def test_particles_at_once_have_the_same_mean_and_stay_apart(name: str) -> None:
    found = CASES[name]
    program, particles = TOGETHER[name]
    values = parameters()
    estimate = estimating(found.build, particles=particles, vectorized=True, baseline=None)
    single = moments(found.reference, values, estimating(found.build, baseline=None))
    several = probed(program, values, estimate)
    torch.testing.assert_close(several.mean, exact_gradient(found.reference, values), **EXACT)
    torch.testing.assert_close(several.variance, single.variance / particles, **EXACT)


def probed(program: Program, values: list[Tensor], estimate: Estimate) -> Moments:
    """Return the moments of an estimate that finds out the dimension in its own run."""
    original = nesting

    def unforced(*args: Any) -> int:
        with oracles.forcing(oracles.Walk(()).draw):
            return original(*args)

    with mock.patch("ancestral.estimators.inference.elbo.nesting", unforced):
        return moments(program, values, estimate)
