"""A log-density that a loss has at the draw serves as the score of the site."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, no-untyped-call"

from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs.estimates import library
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.trace.nodes.node import Node
from oracles import exact_gradient, moments

THETA = torch.tensor([0.3, -0.6, 0.1], dtype=torch.float64, requires_grad=True)
PRIOR = torch.tensor([0.5, 0.1, -0.2], dtype=torch.float64)
Bound = Callable[[Tensor, Bernoulli, Tensor], Tensor]


def plain(z: Tensor, q: Bernoulli, log_q: Tensor) -> Tensor:
    return (log_q - Bernoulli(logits=PRIOR).log_prob(z) + (z.sum() - 1.2) ** 2).sum()


def written(z: Tensor, q: Bernoulli, log_q: Tensor) -> Tensor:
    log_q.add_(z)
    return plain(z, q, log_q)


def doubled(z: Tensor, q: Bernoulli, log_q: Tensor) -> Tensor:
    log_q.mul_(2)
    return plain(z, q, log_q)


def in_part(z: Tensor, q: Bernoulli, log_q: Tensor) -> Tensor:
    return plain(z, q, log_q[:2].sum() + log_q[2])


def hooked(z: Tensor, q: Bernoulli, log_q: Tensor) -> Tensor:
    log_q.register_hook(lambda gradient: None)
    return plain(z, q, log_q)


def without_gradient(z: Tensor, q: Bernoulli, log_q: Tensor) -> Tensor:
    with torch.no_grad():
        held = q.log_prob(z)
    return plain(z, q, held)


def twice(z: Tensor, q: Bernoulli, log_q: Tensor) -> Tensor:
    return plain(z, q, log_q) + (q.log_prob(z) * torch.tensor([1.0, 2.0, 3.0])).sum()


BOUNDS = (plain, written, doubled, in_part, hooked, without_gradient, twice)


def program_of(bound: Bound) -> Callable[[Tensor], Tensor]:
    def program(theta: Tensor) -> Tensor:
        q = Bernoulli(logits=theta * 1.5)
        z = q.sample()
        return bound(z, q, q.log_prob(z))

    return program


@pytest.mark.parametrize("bound", BOUNDS, ids=lambda bound: bound.__name__)
@pytest.mark.parametrize("baseline", [None, "auto"])
def test_the_gradient_is_unbiased(bound: Bound, baseline: Any) -> None:
    program = program_of(bound)
    found = moments(program, [THETA], library(baseline=baseline))
    torch.testing.assert_close(found.mean, exact_gradient(program, [THETA]))


def test_the_density_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[int]()
    computed = Node._density

    def counted(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return computed(*args, **kwargs)

    with an.record():
        loss = program_of(plain)(THETA)
    monkeypatch.setattr(Node, "_density", counted)
    an.backward(loss)
    assert not calls
    with an.record():
        loss = program_of(without_gradient)(THETA)
    calls.clear()
    an.backward(loss)
    assert calls


def test_whoever_looks_at_the_gradient_of_the_density_sees_that_of_the_loss_alone() -> None:
    seen = list[Tensor]()
    q = Bernoulli(logits=THETA * 1.5)
    with an.record():
        z = q.sample()
        log_q = q.log_prob(z)
        log_q.register_hook(seen.append)
        loss = plain(z, q, log_q)
    an.backward(loss)
    (gradient,) = seen
    assert torch.equal(gradient, torch.zeros(3, dtype=torch.float64))  # its mean is left out
