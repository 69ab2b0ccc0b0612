"""Two coins with logits to learn: how they are drawn and scored, and their exact gradient."""

from typing import Any

import pytest
import torch
from programs.estimates import by
from torch import Tensor, nn
from torch.distributions import Bernoulli

from oracles import mean_and_truth

LOGITS = torch.tensor([0.3, -0.8], dtype=torch.float64)
# They read what is drawn, on purpose, for what comes of it.
reading = pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning")


def drawn(theta: Tensor) -> Tensor:
    z: Tensor = Bernoulli(logits=theta).sample()
    return z


def leaves() -> list[Tensor]:
    return [LOGITS.clone().requires_grad_()]


def score(logits: Tensor, value: Tensor, cost: Tensor) -> Tensor:
    """Return the score-function estimate by hand."""
    twin = logits.detach().clone().requires_grad_()
    (Bernoulli(logits=twin).log_prob(value) * cost).sum().backward()
    assert twin.grad is not None
    return twin.grad


def assert_exact(program: Any, control: str) -> None:
    """Check the mean against the exact gradient, all outcomes enumerated."""
    torch.testing.assert_close(
        *mean_and_truth(program, leaves(), by(control=control)), rtol=1e-6, atol=1e-9
    )


class Terms(nn.Module):
    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.detach().clone())

    def forward(self) -> tuple[Tensor, Tensor]:
        return terms(self.theta)


def terms(theta: Tensor) -> tuple[Tensor, Tensor]:
    z = drawn(theta)
    return z, (z - 0.3) ** 2 * theta.exp()
