"""Categorical latents: the estimators that apply to them, frozen and at equal steps.

    python examples/studies/categorical_autoencoder.py --steps 200 --draws 200 --out out

An autoencoder of 20 latents of 10 classes each, with a layer of 100 on either side, of the digits
of scikit-learn as zeros and ones, in batches of 50. The checkpoint is trained by RLOO(4).

Jang, Gu and Poole (2017), "Categorical reparameterization with Gumbel-softmax", section 4.2, has
these latents; Kool, van Hoof and Welling (2020), "Estimating gradients for discrete random
variables by sampling without replacement", Paulus, Maddison and Krause (2021),
"Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator", and Liu et al. (2023),
"Bridging discrete and backpropagation: straight-through and beyond", have the orderings.
"""

from typing import Any

import autoencoder
import comparison
import torch
from autoencoder import Autoencoder
from comparison import Comparison, Ordering, Size
from torch import Tensor, nn
from torch.distributions import OneHotCategorical

from ancestral.estimators import RLOO, GumbelRao

LATENTS, CLASSES, HIDDEN = 20, 10, 100
ORDERINGS = (
    *autoencoder.ORDERINGS,
    Ordering("RLOO(4)", "RLOO(2)", "Kool et al. 2019", of="work"),
    Ordering("unordered set(2)", "RLOO(2)", "Kool et al. 2020", of="work"),
    Ordering("unordered set(2)", "sum and sample(1)", "Kool et al. 2020", of="work"),
    Ordering("sum and sample(1)", "score", "Liu et al. 2019", of="work"),
    Ordering("Gumbel-Rao", "ST-Gumbel", "Paulus et al. 2021"),
    Ordering("ReinMax", "ST-Gumbel", "Liu et al. 2023", of="bias"),
)


class Categorical(Autoencoder):
    """An autoencoder whose latents are classes."""

    def draw(self, logits: Tensor) -> Tensor:
        """Draw z, [batch, latents, classes]."""
        z: Tensor = OneHotCategorical(logits=logits, validate_args=False).sample()
        return z

    def log_prob(self, logits: Tensor, z: Tensor) -> Tensor:
        """Return log q(z) of each latent; that of torch looks for the class, which is a step."""
        return (z * logits.log_softmax(-1)).sum(-1)


def estimators(latents: int, classes: int) -> dict[str, Any]:
    """Return the estimators, by name."""
    return {**autoencoder.estimators(latents * classes), "Gumbel-Rao": GumbelRao()}


def model(pixels: Tensor, latents: int, classes: int) -> Categorical:
    """Return a model for images [images, pixels]."""
    torch.manual_seed(0)
    width = pixels.shape[1]
    logits = nn.Linear(HIDDEN, latents * classes), nn.Unflatten(1, (latents, classes))
    encoder = nn.Sequential(nn.Linear(width, HIDDEN), nn.Tanh(), *logits)
    hidden = nn.Linear(latents * classes, HIDDEN), nn.Tanh()
    decoder = nn.Sequential(*hidden, nn.Linear(HIDDEN, width))
    return Categorical(encoder, decoder, [latents, classes], pixels.mean(0))


def main(size: Size) -> Comparison:
    """Run the study, print the table and orderings, and draw the plots."""
    pixels = comparison.images("digits")
    shape = (3, 3) if size.is_quick else (LATENTS, CLASSES)
    made, chosen = model(pixels, *shape), estimators(*shape)
    name = "digits_categorical"
    found = comparison.compare(name, made, pixels, chosen, size, checkpoint=RLOO(4))
    comparison.show("categorical model of digits", found, ORDERINGS, size, name)
    return found


if __name__ == "__main__":
    comparison.command(__doc__, main, steps=200, draws=200)
