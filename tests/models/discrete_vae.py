"""A discrete VAE in plain torch: categorical latents, convolutions on both sides."""

# torch.distributions has no annotations, and a plain model should not have to say so in each line.
# mypy: allow-untyped-calls

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Categorical

from ancestral.tools.demo.digits import load
from models.reference import PerExample, Reference, Setting


class DiscreteVAE(nn.Module):
    """An image of 8 by 8 pixels, explained by some variables of some classes each."""

    def __init__(self, variables: int = 20, classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.variables, self.classes = variables, classes
        self.encoder = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16 * width, variables * classes),
        )
        self.decoder = nn.Sequential(
            nn.Linear(variables * classes, 4 * width),
            nn.ReLU(),
            nn.Unflatten(1, (width, 2, 2)),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, stride=2, padding=1),
        )

    def posterior(self, x: Tensor) -> Categorical:
        """Return q(z | x) of images [batch, 1, 8, 8]: over [batch, variables]."""
        logits = self.encoder(x).view(len(x), self.variables, self.classes)
        return Categorical(logits=logits)

    def reconstruct(self, z: Tensor) -> Tensor:
        """Return the logits of the pixels, [batch, 1, 8, 8]."""
        one_hot = F.one_hot(z, self.classes).type_as(next(self.parameters()))
        logits: Tensor = self.decoder(one_hot.flatten(1))
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Return the negative ELBO in nats per image."""
        q = self.posterior(x)
        z = q.sample()
        nll = F.binary_cross_entropy_with_logits(self.reconstruct(z), x, reduction="sum")
        prior = Categorical(logits=torch.zeros_like(q.logits))
        loss: Tensor = (nll + (q.log_prob(z) - prior.log_prob(z)).sum()) / len(x)
        return loss


def by_hand(model: DiscreteVAE, x: Tensor) -> Tensor:
    """Return the surrogate: a variable changes the reconstruction of its image, and its density.

    The prior is the same for all classes.
    """
    q = model.posterior(x)
    z = q.sample()
    pixels = F.binary_cross_entropy_with_logits(model.reconstruct(z), x, reduction="none")
    nll, log_q = pixels.sum((1, 2, 3)), q.log_prob(z)
    prior = Categorical(logits=torch.zeros_like(q.logits)).log_prob(z)
    costs = nll[:, None] + log_q - prior
    total: Tensor = (log_q * costs.detach()).sum(1) + nll
    return total.mean()


def per_example(model: DiscreteVAE, x: Tensor) -> PerExample:
    """Return the negative ELBO of each image, and log q(z | x)."""
    q = model.posterior(x)
    z = q.sample()
    pixels = F.binary_cross_entropy_with_logits(model.reconstruct(z), x, reduction="none")
    prior = Categorical(logits=torch.zeros_like(q.logits))
    log_q = q.log_prob(z).sum(1)
    return pixels.sum((1, 2, 3)) + log_q - prior.log_prob(z).sum(1), log_q


REFERENCE = Reference(
    "discrete VAE, 20 variables of 10 classes",
    by_hand,
    per_example,
    learned=("encoder",),
    usual=lambda: Setting(DiscreteVAE(), (load().train[:64].view(-1, 1, 8, 8),)),
    tiny=lambda: Setting(
        DiscreteVAE(variables=2, classes=3, width=2), (load().train[:2].view(-1, 1, 8, 8),)
    ),
)
