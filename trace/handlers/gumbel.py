"""Gumbel-softmax reparameterization: relaxed categoricals and coins, drawn from uniform noise."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    RelaxedBernoulli,
    RelaxedOneHotCategorical,
    Uniform,
)
from torch.distributions.utils import clamp_probs

from ancestral.trace.handlers.reparam import ReparamError, Strategy
from ancestral.trace.nodes.distribution_params import factorized
from ancestral.trace.program.primitives import sample
from ancestral.trace.recording.message import Message


@dataclass(frozen=True)
class GumbelSoftmax(Strategy):
    """Draw a relaxed discrete site from noise ``{name}_uniform``, u, of the shape of its value.

        RelaxedOneHotCategorical(τ, l):  x = softmax((l - log(-log u)) / τ)
        RelaxedBernoulli(τ, l):          x = sigmoid((l + log u - log(1 - u)) / τ)

    The noise has no parents. Maddison, Mnih and Teh (2017), "The concrete distribution", section
    3.1; Jang, Gu and Poole (2017), "Categorical reparameterization with Gumbel-softmax".
    """

    def __call__(self, message: Message) -> Tensor:
        """Draw the noise, and return the value that it makes."""
        assert message.fn is not None
        fn = factorized(message.fn)
        if not isinstance(fn, (RelaxedBernoulli, RelaxedOneHotCategorical)):
            expected = "a RelaxedOneHotCategorical, a RelaxedBernoulli, or an Independent of them"
            raise ReparamError(message, fn, "GumbelSoftmax", expected)
        logits, temperature = fn.logits, fn.temperature
        zero = torch.zeros(message.fn.batch_shape + message.fn.event_shape, dtype=logits.dtype)
        noise = Uniform(zero.to(logits.device), 1.0)
        event = len(message.fn.event_shape)
        drawn = sample(
            f"{message.name}_uniform",
            Independent(noise, event) if event else noise,
            infer=message.infer,
        )
        u = clamp_probs(drawn)
        if isinstance(fn, RelaxedBernoulli):
            return torch.sigmoid((logits + u.log() - (-u).log1p()) / temperature)
        return torch.softmax((logits - (-u.log()).log()) / temperature, -1)
