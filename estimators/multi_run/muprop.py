"""MuProp: the linear part of the loss at the mean of a site, taken off and put back."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class MuProp:
    """Take a first-order expansion at the mean off the loss, and put its exact gradient back.

        g = Σ_n (f_n(z) - f_n(μ) - f'(μ) · (z - μ)) ∇ log q(z[n]) + f'(μ) · ∇μ,   μ = E[z]

    Over the elements that have costs in common, z - μ counts as a whole. Needs one evaluation more,
    with its derivative, at values that the site cannot take. Bernoulli and OneHotCategorical sites.
    Unbiased, whatever the derivative is worth: f_n(μ) and f'(μ) do not depend on z.
    Gu, Levine, Sutskever and Mnih (2016), "MuProp: unbiased backpropagation for stochastic neural
    networks", equation 4.
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        mean = site.parameter("probs")
        at_mean = site.evaluate_slope(mean.detach(), is_smooth=False)
        linear = site.in_common(at_mean.slope * (site.value - mean.detach()))
        weight = site.credit - at_mean.credit - linear
        scored = (weight * site.log_prob(site.value)).sum()
        return scored + (at_mean.slope * mean).sum()
