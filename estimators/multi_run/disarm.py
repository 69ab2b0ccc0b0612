"""DisARM: two antithetic draws of bits, whose weight has no noise left."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class DisARM:
    """Compare a draw of bits with its antithetic one.

        g[n] = 1/2 (f_n(b) - f_n(b')) (b[n] - b'[n]) σ(|φ[n]|) ∇φ[n]
        b = 1{u > σ(-φ)},   b' = 1{u < σ(φ)},   f_n the costs downstream of element n

    Needs one evaluation more. Bernoulli sites, by logits or probs. Unbiased: it is the mean of ARM
    given the two draws, and a cost that element n does not reach has mean zero times b[n] - b'[n].
    Dong, Mnih and Tucker (2020), "DisARM: an antithetic gradient estimator for binary latent
    variables", equation 9; Yin, Ho, Yan, Qian and Zhou (2020), "Probabilistic best subset selection
    via gradient-based optimization", where it is called U2G.
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli)
        logits, bits = site.parameter("logits"), site.value
        other = site.draw(Bernoulli(probs=antithetic(logits.detach(), bits)))
        weight = (site.credit - site.evaluate(other)) * (bits - other) / 2
        return (weight * torch.sigmoid(logits.detach().abs()) * logits).sum()


def antithetic(logits: Tensor, bits: Tensor) -> Tensor:
    """Return the probabilities that antithetic bits are ones, given the first bits.

        P(b' = 1 | b = 1) = max(0, 2 - 1/p),   P(b' = 1 | b = 0) = min(1, p / (1 - p))

    >>> antithetic(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor([1., 0.])
    """
    given_one = (1 - torch.exp(-logits)).clamp(min=0)
    given_zero = torch.exp(logits).clamp(max=1)
    return torch.where(bits > 0, given_one, given_zero)
