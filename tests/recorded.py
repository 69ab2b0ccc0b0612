"""A recording that has ended, after which torch answers as before it."""

import torch
from torch.distributions import Bernoulli

import ancestral as an

P = torch.tensor([0.2, 0.7], dtype=torch.float64)


def recorded() -> None:
    """Record something, and end the recording."""
    with an.record():
        Bernoulli(P).sample()
