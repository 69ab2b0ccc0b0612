"""What a study costs beside its own estimates: python -m models.study [draws].

A study of twelve estimators on a model of 64 pixels and 200 binary latents, with one process and
with two. On a machine with other work, the figures say little: the times of the estimates are wall
time too.
"""

import sys

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.tools.bench.rows import Row

NAMES = (
    "auto, score, reinforce, optimal, loo, arm, disarm, arms, muprop, double-cv, rebar, "
    "straight-through"
)


class BinaryVAE(nn.Module):
    """A variational autoencoder with one layer of binary latents, linear on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(64, 200), nn.Linear(200, 64)
        self.prior = nn.Parameter(torch.zeros(200))

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative ELBO, the mean over images [batch, 64]."""
        q = Bernoulli(logits=self.encoder(x), validate_args=False)
        z = q.sample()
        prior = Bernoulli(logits=self.prior, validate_args=False)
        likelihood = Bernoulli(logits=self.decoder(z)).log_prob(x).sum(-1)
        bound: Tensor = likelihood + prior.log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
        return -bound.mean()


def main(draws: int) -> None:
    """Print the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model, images = BinaryVAE(), torch.rand(50, 64).round()
    alone, two = (
        an.study(model, images, estimators=NAMES, draws=draws, steps=0, workers=workers)
        for workers in (1, 2)
    )
    print(alone)
    for row in (
        Row(
            "seconds of the study / of its estimates, one process",
            alone.seconds / alone.step_seconds,
            1.1,
        ),
        Row("seconds with two processes / with one", two.seconds / alone.seconds, 1 / 1.8),
    ):
        print("  ".join(row.cells()).rstrip())


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 500)
