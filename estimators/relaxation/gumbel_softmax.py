"""Gumbel estimators: the pathwise derivative of a relaxed draw, of a program that has that or not.

Jang, Gu and Poole (2017), "Categorical reparameterization with Gumbel-softmax"; Maddison, Mnih and
Teh (2017), "The concrete distribution".
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, OneHotCategorical

from ancestral.estimators.relaxation.concrete import check_temperature, relaxed
from ancestral.estimators.rerun.site_draw import SiteDraw
from ancestral.trace.context.argument_checks import check_count


@dataclass(frozen=True)
class GumbelSoftmax:
    """Run the program with a relaxed draw, and differentiate through it.

        g = f'(r) · ∇r,   r = σ(y/τ) or softmax(y/τ),   y = log p + noise

    Needs one evaluation more, with its derivative, at values that the site cannot take. Bernoulli
    and OneHotCategorical sites. BIASED: it is the gradient of the relaxed loss. Jang, Gu and Poole
    (2017), section 2.1; Maddison, Mnih and Teh (2017), section 3.

    Attributes:
        temperature: τ.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        """Check the temperature."""
        check_temperature(self, self.temperature)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        soft = relaxed(site, self.temperature).free
        run = site.evaluate_slope(soft.detach(), is_smooth=False)
        return (run.slope * soft).sum()


@dataclass(frozen=True)
class StraightThroughGumbel:
    """Differentiate the loss by what was drawn, and go on as if that were the relaxed draw.

        g = f'(z) · ∇r,   r = σ(y/τ) or softmax(y/τ), drawn given z

    Needs one evaluation more, with its derivative. Bernoulli and OneHotCategorical sites. BIASED.
    Jang, Gu and Poole (2017), section 2.2.

    Attributes:
        temperature: τ.
    """

    temperature: float = 0.5

    def __post_init__(self) -> None:
        """Check the temperature."""
        check_temperature(self, self.temperature)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        return GumbelRao(self.temperature, samples=1)(site)


@dataclass(frozen=True)
class GumbelRao:
    """Average the relaxed draw given what was drawn: straight-through Gumbel with less variance.

        g = f'(z) · 1/K Σ_k ∇r_k,   r_1, ..., r_K drawn given z

    Needs one evaluation more, with its derivative. Bernoulli and OneHotCategorical sites. BIASED,
    with the mean of `StraightThroughGumbel`. Paulus, Maddison and Krause (2021),
    "Rao-Blackwellizing the straight-through Gumbel-softmax gradient estimator", equation 10.

    Attributes:
        temperature: τ.
        samples: K.
    """

    temperature: float = 0.5
    samples: int = 10

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_temperature(self, self.temperature)
        check_count("GumbelRao: samples", self.samples)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, OneHotCategorical)
        soft = [relaxed(site, self.temperature).free for _ in range(self.samples)]
        run = site.evaluate_slope(site.value, is_smooth=False)
        return (run.slope * torch.stack(soft).mean(0)).sum()
