"""Pairs of a model and a guide, each with its negative bound as plain torch computes it.

The reference draws as the guide does, and sums the log-probabilities by hand.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal

import ancestral as an
from ancestral import handlers
from oracles import Program

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
