"""Double control variates: leave-one-out draws, and the slopes of the others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.rerun.site_draw import SiteDraw
from ancestral.trace.context.argument_checks import check_count


@dataclass(frozen=True)
class DoubleCV:
    """Compare several draws with each other, after what the slopes at the others predict.

        g = 1/K Σ_k [ Σ_n (h_k - 1/(K-1) Σ_{j≠k} h_j) ∇ log q(z_k[n]) + G_k · ∇μ ]
        h_k = f_n(z_k) - G_kn · (z_k - μ),   G_kn = 1/(K-1) Σ_{j≠k} f_n'(z_j),   μ = E[z]

    f_n' is of the costs that depend on element n, by all elements that these depend on; G_k is of
    all costs. Needs K evaluations more, with their derivatives. Bernoulli and OneHotCategorical
    sites. Unbiased, whatever the derivatives are worth: G_kn does not depend on z_k, and h_j for
    j ≠ k does by what has mean zero given z_k, as z_j - μ has. Titsias and Shi (2022), "Double
    control variates for gradient estimation in discrete latent variable models", section 3, with
    the mean slope of the other draws and the coefficient 1.

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
        runs = [site.evaluate_linear(value) for value in values]
        h, linear = [], []
        for k, value in enumerate(values):
            others = [run for j, run in enumerate(runs) if j != k]
            step = value - mean.detach()
            h.append(runs[k].credit - _mean([run.change(step) for run in others]))
            linear.append((_mean([run.slope for run in others]) * mean).sum())
        parts = [
            ((h[k] - _mean([*h[:k], *h[k + 1 :]])) * site.log_prob(value)).sum() + linear[k]
            for k, value in enumerate(values)
        ]
        return _mean(parts)


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([*values]).mean(0)
