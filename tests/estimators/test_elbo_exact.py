"""The gradient of the evidence lower bound against exact enumeration of small pairs.

The reference of each pair is its negative bound in plain torch: it draws as the guide does, and
sums the log-probabilities by hand.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call, no-any-return"

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal

import ancestral as an
import oracles
from ancestral import handlers
from ancestral.estimators.particles import particle_dim
from oracles import Estimate, Moments, Program, derivatives, exact_gradient, moments, paths

Build = Callable[..., tuple[Callable[[], Any], Callable[[], Any]]]

X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
MASK = torch.tensor([True, False, True])


def parameters() -> list[Tensor]:
    torch.manual_seed(0)
    values = [
        torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64),  # of the guide
        torch.tensor([0.3, -0.5], dtype=torch.float64),  # of the model
        torch.tensor(0.6, dtype=torch.float64),  # of both
    ]
    return [value.requires_grad_() for value in values]


@dataclass(frozen=True)
class Case:
    """A model and a guide, and the negative bound of one run as plain torch computes it."""

    build: Build
    reference: Program


CASES: dict[str, Case] = {}


def case(reference: Program) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        CASES[build.__name__] = Case(build, reference)
        return build

    return add


def coin(logits: Tensor) -> Bernoulli:
    return Bernoulli(logits=logits)


# --- One coin after another, with a Python-free chain ---


def chain_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qa = coin(q[0])
    a = qa.sample()
    qb = coin(q[1] + s * a)
    b = qb.sample()
    joint = coin(p[0]).log_prob(a) + coin(p[1] * a).log_prob(b)
    joint = joint + Normal(a - b * s, 0.7).log_prob(X[0])
    return qa.log_prob(a) + qb.log_prob(b) - joint


@case(chain_loss)
def chain(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def model() -> None:
        a = an.sample("a", coin(p[0]))
        b = an.sample("b", coin(p[1] * a))
        an.sample("x", Normal(a - b * s, 0.7), obs=X[0])

    def guide() -> None:
        a = an.sample("a", coin(q[0]))
        an.sample("b", coin(q[1] + s * a))

    return model, guide


# --- A global coin, a plate of local ones, a mask and scales ---


def plated_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qg = coin(s)
    g = qg.sample()
    qz = coin(q + 0.5 * g)
    z = qz.sample()
    loss = qg.log_prob(g) - coin(p[0]).log_prob(g)
    kl = qz.log_prob(z) - coin(p[1] + g).log_prob(z).expand(3)
    fit = torch.where(MASK, Normal(z * s + g, 0.9).log_prob(X), 0.0)
    return loss + 0.3 * kl.sum() - 2.0 * fit.sum() - (z * s).square().sum()


@case(plated_loss)
def plated(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def model() -> None:
        g = an.sample("g", coin(p[0]))
        with an.plate("data", 3):
            with handlers.scale(0.3):
                z = an.sample("z", coin(p[1] + g))
            with handlers.scale(2.0), handlers.mask(MASK):
                an.sample("x", Normal(z * s + g, 0.9), obs=X)
            an.factor("extra", (z * s).square())

    def guide() -> None:
        g = an.sample("g", coin(s))
        with an.plate("data", 3), handlers.scale(0.3):
            an.sample("z", coin(q + 0.5 * g))

    return model, guide


# --- Masked latents: they are drawn, and reach others, but do not count ---


def masked_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qz = coin(q)
    z = qz.sample()
    kl = torch.where(MASK, qz.log_prob(z) - coin(p[0]).log_prob(z), 0.0).sum()
    qy = coin(s * z.sum(-1, keepdim=True))
    y = qy.sample()
    kl = kl + (qy.log_prob(y) - coin(p[1] * z[1]).log_prob(y)).sum()
    return kl - Normal(z * y, 1.0).log_prob(X).sum()


@case(masked_loss)
def masked(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def model() -> None:
        with an.plate("data", 3), handlers.mask(MASK):
            z = an.sample("z", coin(p[0]))
        y = an.sample("y", coin(p[1] * z[..., 1:2]))
        with an.plate("cases", 3):  # another plate: they share what z is, through y
            an.sample("x", Normal(z * y, 1.0), obs=X)

    def guide() -> None:
        with an.plate("data", 3), handlers.mask(MASK):
            z = an.sample("z", coin(q))
        an.sample("y", coin(s * z.sum(-1, keepdim=True)))

    return model, guide


# --- Auxiliary sites on both sides ---


def auxiliary_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qu = coin(q[0])
    u = qu.sample()
    qz = coin(q[1] * u)
    z = qz.sample()
    w = coin(p[1] + z).sample()  # from the prior
    joint = coin(p[0]).log_prob(z) + Normal(z + s * w, 0.6).log_prob(X[2])
    return qu.log_prob(u) + qz.log_prob(z) - joint


@case(auxiliary_loss)
def auxiliary(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    own = {"is_auxiliary": True}

    def model() -> None:
        z = an.sample("z", coin(p[0]))
        w = an.sample("w", coin(p[1] + z), infer=own)
        an.sample("x", Normal(z + s * w, 0.6), obs=X[2])

    def guide() -> None:
        u = an.sample("u", coin(q[0]), infer=own)
        an.sample("z", coin(q[1] * u))

    return model, guide


# --- Pathwise and score sites, events, classes ---


def mixed_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qk = Categorical(logits=q[1:])
    k = qk.sample()
    qn = Normal(p.new_tensor([0.2, -0.4])[k] * s, (0.3 * q[:2]).exp())
    n = qn.rsample()
    qb = coin(n[0] * q[2])
    b = qb.sample()
    joint = Categorical(logits=torch.stack([p[0], s])).log_prob(k)
    joint = joint + Normal(p, 1.3).log_prob(n).sum() + coin(n.sum()).log_prob(b)
    joint = joint + Normal(n * b, 0.8).log_prob(X[:2]).sum()
    return qk.log_prob(k) + qn.log_prob(n).sum() + qb.log_prob(b) - joint


@case(mixed_loss)
def mixed(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    table = torch.tensor([0.2, -0.4], dtype=torch.float64)

    def model() -> None:
        an.sample("k", Categorical(logits=torch.stack([p[0], s])))
        n = an.sample("n", Independent(Normal(p, 1.3), 1))
        b = an.sample("b", coin(n.sum(-1)))
        an.sample("x", Independent(Normal(n * b[..., None], 0.8), 1), obs=X[:2])

    def guide() -> None:
        k = an.sample("k", Categorical(logits=q[1:]))
        loc = (table[k] * s)[..., None]
        n = an.sample("n", Independent(Normal(loc, (0.3 * q[:2]).exp()), 1))
        an.sample("b", coin(n[..., 0] * q[2]))

    return model, guide


# --- Python decides which sites there are ---


def branching_loss(q: Tensor, p: Tensor, s: Tensor) -> Tensor:
    qa = coin(q[0])
    a = qa.sample()
    loss = qa.log_prob(a) - coin(p[0]).log_prob(a)
    if a.item() > 0:
        qb = coin(q[1])
        b = qb.sample()
        loss = loss + qb.log_prob(b) - coin(p[1]).log_prob(b)
        return loss - Normal(b * s, 1.0).log_prob(X[0])
    return loss - Normal(s, 1.0).log_prob(X[1])


@case(branching_loss)
def branching(q: Tensor, p: Tensor, s: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    def model() -> None:
        a = an.sample("a", coin(p[0]))
        if a.item() > 0:
            b = an.sample("b", coin(p[1]))
            an.sample("x", Normal(b * s, 1.0), obs=X[0])
        else:
            an.sample("x", Normal(s, 1.0), obs=X[1])

    def guide() -> None:
        a = an.sample("a", coin(q[0]))
        if a.item() > 0:
            an.sample("b", coin(q[1]))

    return model, guide


def estimating(build: Build, **options: Any) -> Estimate:
    """Return what estimates the gradient of the negative bound from one run."""

    def estimate(_: Program, values: Any) -> Tensor:
        return derivatives(an.elbo(*build(*values), **options).surrogate, values)

    return estimate


def mean_of(program: Program, count: int) -> Program:
    def averaged(*values: Tensor) -> Tensor:
        return torch.stack([program(*values) for _ in range(count)]).mean()

    return averaged


EXACT: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("name", CASES)
def test_the_mean_of_the_gradient_is_exact(name: str) -> None:
    found = CASES[name]
    values = parameters()
    truth = exact_gradient(found.reference, values)
    assert truth.abs().max() > 0.05
    mean = moments(found.reference, values, estimating(found.build)).mean
    torch.testing.assert_close(mean, truth, **EXACT)


@pytest.mark.parametrize("name", CASES)
def test_the_value_is_the_bound_of_the_very_run(name: str) -> None:
    found = CASES[name]
    values = parameters()

    def both(program: Program, values: Any) -> Tensor:
        result = an.elbo(*found.build(*values))
        return torch.stack([result.value, -result.surrogate.detach()])

    mean = moments(found.reference, values, both).mean
    expected = sum(path.log_prob.exp() * path.loss for path in paths(found.reference, values))
    assert isinstance(expected, Tensor)
    torch.testing.assert_close(mean, -expected.detach().expand(2), **EXACT)


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
    by_site = moments(reference, values, estimating(plated, estimator=an.by_site))
    total = moments(reference, values, estimating(plated, estimator=an.total_cost))
    torch.testing.assert_close(by_site.mean, by_element.mean, **EXACT)
    torch.testing.assert_close(total.mean, by_element.mean, **EXACT)
    local = slice(0, 3)  # the parameters of the guide within the plate
    assert (by_element.variance[local] < 0.7 * by_site.variance[local]).all()
    assert (by_site.variance[local] < total.variance[local]).all()


def test_leave_one_out_uses_the_other_particles() -> None:
    values = parameters()
    options = {"particles": 3, "vectorized": True, "max_plate_nesting": 0}
    plain = moments(chain_batch, values, estimating(chain, **options))
    less = moments(chain_batch, values, estimating(chain, baseline=an.LeaveOneOut(), **options))
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
    estimate = estimating(found.build, particles=particles, vectorized=True)
    single = moments(found.reference, values, estimating(found.build))
    several = probed(program, values, estimate)
    torch.testing.assert_close(several.mean, exact_gradient(found.reference, values), **EXACT)
    torch.testing.assert_close(several.variance, single.variance / particles, **EXACT)


def probed(program: Program, values: list[Tensor], estimate: Estimate) -> Moments:
    """Return the moments of an estimate that finds out the dimension in a run of its own."""
    original = particle_dim

    def unforced(*args: Any) -> int:
        with oracles.forcing(oracles.Walk(()).draw):
            return original(*args)

    with mock.patch("ancestral.estimators.elbo.particle_dim", unforced):
        return moments(program, values, estimate)
