"""Autoencoders with discrete latents, and the estimators that binary and one-hot ones share."""

from collections.abc import Sequence
from typing import Any

import torch
from comparison import BATCH, Ordering
from torch import Tensor, nn
from torch.distributions import Bernoulli

from ancestral.estimators import (
    REBAR,
    RELAX,
    RLOO,
    DoubleCV,
    GumbelSoftmax,
    LocalExpectation,
    MeasureValued,
    MuProp,
    Optimal,
    Plan,
    ReinMax,
    StraightThrough,
    StraightThroughGumbel,
    SumAndSample,
    UnorderedSet,
)

TEMPERATURE = 0.1
"""Of the relaxations of REBAR and RELAX, which is not learned."""


class Autoencoder(nn.Module):
    """Discrete latents of images: q(z | x), p(z), and p(x | z), all learned.

    The networks begin at the mean of the images: the encoder sees how an image differs from it, and
    the decoder starts from it, as in the experiments of the papers.
    """

    mean: Tensor
    start: Tensor

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, latents: Sequence[int], mean: Tensor
    ) -> None:
        """Take the networks, the shape of the latents of an image, and the mean, [pixels].

        The encoder gives the logits of the latents, [batch, *latents], and the decoder those of the
        pixels.
        """
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.prior = nn.Parameter(torch.zeros(*latents))
        self.register_buffer("mean", mean)
        self.register_buffer("start", torch.logit(mean.clamp(0.01, 0.99)))

    def draw(self, logits: Tensor) -> Tensor:
        """Draw z, [batch, *latents]."""
        raise NotImplementedError

    def log_prob(self, logits: Tensor, z: Tensor) -> Tensor:
        """Return log q(z) of each latent, which is smooth in z: for relaxed ones too."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative ELBO in nats, the mean over images [batch, pixels]."""
        logits = self.encoder(x - self.mean)
        z = self.draw(logits)
        # The derivative of log q(z) by its own logits has mean zero, and is left out.
        both = (logits.detach(), self.prior)
        log_q, log_p = (self.log_prob(each, z).flatten(1).sum(1) for each in both)
        pixels = Bernoulli(logits=self.decoder(z.flatten(1)) + self.start, validate_args=False)
        bound: Tensor = pixels.log_prob(x).sum(1) + log_p - log_q
        return -bound.mean()


class Control(nn.Module):
    """A control variate for RELAX that learns: a layer of ten for an image, zero at first.

    It counts as the cost of an image does in the mean over a batch, so that its steps are nats.
    """

    def __init__(self, latents: int) -> None:
        """Take how many numbers the latents of an image are."""
        super().__init__()
        last = nn.Linear(10, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(nn.Linear(latents, 10), nn.Tanh(), last)

    def forward(self, y: Tensor) -> Tensor:
        """Return c of the relaxed latents of an image before they are squashed, [1]."""
        found: Tensor = self.layers(y.flatten()) / BATCH
        return found


def estimators(latents: int) -> dict[str, Any]:
    """Return those that apply to binary and to one-hot latents of so many numbers, by name."""
    return {
        "auto": "auto",
        "score": Plan(estimators="score", baseline=None),
        "optimal baseline": Plan(baseline=Optimal()),
        "RLOO(2)": RLOO(2),
        "RLOO(4)": RLOO(4),
        "MuProp": MuProp(),
        "double CV(2)": DoubleCV(2),
        "REBAR": REBAR(TEMPERATURE),
        "RELAX": RELAX(Control(latents), 1.0, TEMPERATURE),
        "local expectation": LocalExpectation(),
        "measure-valued": MeasureValued(),
        "sum and sample(1)": SumAndSample(1),
        "unordered set(2)": UnorderedSet(2),
        "straight-through": StraightThrough(),
        "Gumbel-softmax": GumbelSoftmax(),
        "ST-Gumbel": StraightThroughGumbel(),
        "ReinMax": ReinMax(),
    }


ORDERINGS = (
    Ordering("auto", "score", "leave one out of the batch, Kool et al. 2019"),
    Ordering("double CV(2)", "RLOO(2)", "Titsias and Shi 2022"),
    Ordering("double CV(2)", "RLOO(4)", "Titsias and Shi 2022", of="work"),
    Ordering("REBAR", "MuProp", "Tucker et al. 2017"),
    Ordering("RELAX", "REBAR", "Grathwohl et al. 2018"),
    Ordering("ReinMax", "straight-through", "Liu et al. 2023", of="bias"),
)
"""The claims of papers about these."""
