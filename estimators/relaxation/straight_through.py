"""Straight-through: the derivative of the loss by a draw, as if the draw were its mean."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class StraightThrough:
    """Differentiate the loss by what was drawn, and go on as if that were the mean.

        g = f'(z) · ∇ E[z]

    Needs one evaluation more, with its derivative. Bernoulli and OneHotCategorical sites. BIASED,
    but for a loss that is linear in each draw. Bengio, Léonard and Courville (2013), "Estimating or
    propagating gradients through stochastic neurons for conditional computation", section 3.
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        run = site.evaluate_slope(site.value, is_smooth=False)
        return (run.slope * site.parameter("probs")).sum()
