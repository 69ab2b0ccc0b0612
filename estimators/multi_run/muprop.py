"""MuProp: the linear part of the loss at the mean of a site, taken off and put back."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class MuProp:
    """Take a first-order expansion at the mean off the loss, and put its exact gradient back.

        g = Σ_n (f_n(z) - f_n(μ) - f_n'(μ) · (z - μ)) ∇ log q(z[n]) + f'(μ) · ∇μ,   μ = E[z]

    f_n' is of the costs that depend on element n, by all elements that these depend on. Needs one
    evaluation more, with its derivatives, at values that the site cannot take. Bernoulli and
    OneHotCategorical sites. Unbiased, whatever the derivatives are worth: f_n(μ) and f_n'(μ) do not
    depend on z.
    Gu, Levine, Sutskever and Mnih (2016), "MuProp: unbiased backpropagation for stochastic neural
    networks", equation 4.
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        mean = site.parameter("probs")
        at_mean = site.evaluate_linear(mean.detach())
        weight = site.credit - at_mean.credit - at_mean.change(site.value - mean.detach())
        scored = (weight * site.log_prob(site.value)).sum()
        return scored + (at_mean.slope * mean).sum()
