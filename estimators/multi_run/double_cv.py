"""Double control variates: leave-one-out draws, and the slopes of the others."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.rerun.site_draw import SiteDraw
from ancestral.trace.context.argument_checks import check_count


@dataclass(frozen=True)
class DoubleCV:
    """Compare several draws with each other, after what the slopes at the others foretell.

        g = 1/K Σ_k [ Σ_n (h_k - 1/(K-1) Σ_{j≠k} h_jk) ∇ log q(z_k[n]) + G_k · ∇μ ]
        h_jk = f_n(z_j) - G_k · (z_j - μ),   h_k = h_kk,   G_k = 1/(K-1) Σ_{j≠k} f'(z_j),   μ = E[z]

    Over the elements that have costs in common, z - μ counts as a whole. Needs K evaluations more,
    with their derivatives. Bernoulli and OneHotCategorical sites. Unbiased, whatever the
    derivatives are worth: G_k does not depend on z_k. Titsias and Shi (2022), "Double control
    variates for gradient estimation in discrete latent variable models", section 3, with the mean
    slope of the other draws.

    Attributes:
        samples: K, at least 2.
    """

    samples: int = 2

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ValueError: if it is none.
        """
        check_count("DoubleCV: samples", self.samples, least=2)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        count, mean = self.samples, site.parameter("probs")
        values = [site.value, *(site.draw_again() for _ in range(count - 1))]
        runs = [site.evaluate_slope(value, is_smooth=False) for value in values]
        slopes = torch.stack([run.slope for run in runs])
        parts = []
        for k, value in enumerate(values):
            slope = (slopes.sum(0) - slopes[k]) / (count - 1)
            h = torch.stack(
                [
                    run.credit - site.in_common(slope * (other - mean.detach()))
                    for run, other in zip(runs, values, strict=True)
                ]
            )
            weight = h[k] - (h.sum(0) - h[k]) / (count - 1)
            parts.append((weight * site.log_prob(value)).sum() + (slope * mean).sum())
        return torch.stack(parts).mean()
