"""REBAR: the relaxed loss as a control variate, whose exact gradient is put back."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.relaxation.concrete import check_temperature, relaxed
from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class REBAR:
    """Take the loss at a relaxed value off, and put its gradient back by the pathwise estimator.

        g = Σ_n (f_n(z) - η f_n(r)) ∇ log q(z[n]) + η f'(r) · (∇r_free - ∇r_given)

    r is a relaxed value that is drawn given z: r_free is it as a function of the parameters with
    the noise held fixed, r_given with that of the conditional draw; both have one value, so that
    the program runs once for them.

    Needs one evaluation more, with its derivative, at values that the site cannot take. Bernoulli
    and OneHotCategorical sites, and a loss that is smooth in the value: refused where it reaches a
    step, or a draw without a derivative. Unbiased. Tucker, Mnih, Maddison, Lawson and
    Sohl-Dickstein (2017), "REBAR: low-variance, unbiased gradient estimates for discrete latent
    variable models", equation 8.

    Attributes:
        temperature: of the relaxation.
        scale: η.
    """

    temperature: float = 0.5
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: if the temperature is not positive.
        """
        check_temperature(self, self.temperature)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        soft = relaxed(site, self.temperature)
        run = site.evaluate_slope(soft.free.detach(), is_smooth=True)
        weight = site.credit - self.scale * run.credit
        scored = (weight * site.log_prob(site.value)).sum()
        return scored + self.scale * (run.slope * (soft.free - soft.given)).sum()
