"""A chain of coins of which each decides how the next is weighed: variances that are exact."""

from collections.abc import Callable
from typing import TypeVar

import torch
from programs.estimates import library
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators.baselines.learned import Learned
from oracles import enumerated, estimates_on, moments_of

Program = Callable[[Tensor], Tensor]
Kind = TypeVar("Kind", bound=Learned)

THETA = torch.tensor([-0.4, 0.9], dtype=torch.float64, requires_grad=True)


def chain(theta: Tensor, steps: int = 10) -> Tensor:
    """Return the cost of a chain, []."""
    z, loss = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(steps):
        z = Bernoulli(logits=torch.where(z > 0, theta[1], theta[0])).sample()
        loss = loss + (z - 0.45) ** 2
    return loss


def trained(baseline: Kind, program: Program, steps: int) -> Kind:
    """Return a baseline after some steps of learning."""
    torch.manual_seed(1)
    for _ in range(steps):
        theta = THETA.detach().clone().requires_grad_()
        with an.record():
            loss = program(theta)
        an.backward(loss, baseline=baseline)
    return baseline


def variance(baseline: Learned | None, program: Program) -> float:
    """Return the exact variance of the gradient, in total; its mean must be exact."""
    runs, exact = enumerated(program, [THETA])
    found = moments_of(*estimates_on(runs, program, [THETA], library(baseline=baseline)))
    torch.testing.assert_close(found.mean, exact)
    return float(found.variance.sum())
