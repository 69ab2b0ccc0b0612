"""ReinMax: a straight-through estimator of second order."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class ReinMax:
    """Differentiate the loss by what was drawn, and go on by Heun's rule between draw and mean.

        g = f'(z) · (2 ∇m - 1/2 ∇π),   m = softmax(⊥(log (π + z)/2 - φ) + φ)

    Bits are two classes. Needs one evaluation more, with its derivative. Bernoulli and
    OneHotCategorical sites. BIASED, but for a loss that is quadratic in the draw. Liu, Dong, Liu,
    Yu and Gao (2023), "Bridging discrete and backpropagation: straight-through and beyond",
    algorithm 2 at temperature 1.
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        run = site.evaluate_slope(site.value, is_smooth=False)
        logits, value = site.parameter("logits"), site.value
        if isinstance(site.fn, Bernoulli):
            logits = torch.stack([torch.zeros_like(logits), logits], -1)
            value = torch.stack([1 - value, value], -1)
        mean = logits.softmax(-1)
        half = ((mean + value) / 2).detach().log()
        middle = ((half - logits).detach() + logits).softmax(-1)
        moved = 2 * middle - mean / 2
        if isinstance(site.fn, Bernoulli):
            moved = moved[..., 1]
        return (run.slope * moved).sum()
