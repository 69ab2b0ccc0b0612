"""ARM: two antithetic draws of bits, weighted by the uniform noise of both."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Uniform

from ancestral.estimators.multi_run.disarm import antithetic
from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class ARM:
    """Compare a draw of bits with its antithetic one, weighted by the noise of both.

        g[n] = (f_n(b') - f_n(b)) (u[n] - 1/2) ∇φ[n]
        b = 1{u < σ(φ)},   b' = 1{u > σ(-φ)},   f_n the costs downstream of element n

    Needs one evaluation more. Bernoulli sites, by logits or probs. Unbiased. The noise is drawn
    given the bits that the site has. `DisARM` has less variance for the same evaluations.
    Yin and Zhou (2019), "ARM: augment-REINFORCE-merge gradient for stochastic binary networks",
    theorem 1.
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli)
        logits, bits = site.parameter("logits"), site.value
        other = site.draw(Bernoulli(probs=antithetic(logits.detach(), bits)))
        p, q = torch.sigmoid(logits.detach()), torch.sigmoid(-logits.detach())
        # b = 1 for u in (0, p), b' = 1 for u in (1 - p, 1): what both leave of (0, 1).
        low = torch.maximum(torch.where(bits > 0, 0, p), torch.where(other > 0, q, 0))
        high = torch.minimum(torch.where(bits > 0, p, 1), torch.where(other > 0, 1, q))
        noise = low + site.draw(Uniform(torch.zeros_like(p), 1.0)) * (high - low)
        weight = (site.evaluate(other) - site.credit) * (noise - 0.5)
        return (weight * logits).sum()
