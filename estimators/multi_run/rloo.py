"""RLOO: several independent draws of a site, each compared with the mean of the others."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.rerun.site_draw import SiteDraw
from ancestral.trace.context.argument_checks import check_count


@dataclass(frozen=True)
class RLOO:
    """Compare each of several independent draws with the mean of the others.

        g = 1/K Σ_k Σ_n (f_n(z_k) - 1/(K-1) Σ_{j≠k} f_n(z_j)) ∇ log q(z_k[n])
        z_1, ..., z_K ~ q,   f_n the costs downstream of element n

    Needs K - 1 evaluations more. Every site with a density, finite or continuous. Unbiased: what is
    subtracted does not depend on z_k. Salimans and Knowles (2014), "On using control variates with
    stochastic approximation for variational Bayes and its connection to stochastic linear
    regression"; Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for
    free!", equation 8.

    Attributes:
        samples: K, at least 2.
    """

    samples: int = 2

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ValueError: if it is none.
        """
        check_count("RLOO: samples", self.samples, least=2)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        values = [site.value, *(site.draw_again() for _ in range(self.samples - 1))]
        found = torch.stack([site.credit, *site.evaluate_all(values[1:])])
        log_probs = torch.stack([site.log_prob(value) for value in values])
        # f_k - 1/(K-1) Σ_{j≠k} f_j = K/(K-1) (f_k - mean f)
        weight = (found - found.mean(0)) / (self.samples - 1)
        return (weight * log_probs).sum()
