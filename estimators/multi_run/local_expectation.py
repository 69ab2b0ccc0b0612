"""Local expectation: the exact sum over the values of each element, with the others as drawn."""

from dataclasses import dataclass

from torch import Tensor

from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class LocalExpectation:
    """Sum over all values of each element, the other elements as they were drawn.

        g = Σ_n Σ_v f_n(z with z[n] = v) ∇ q(v),   f_n the costs downstream of element n

    Needs (C - 1) D evaluations more, for C values and D elements that have costs in common;
    elements that have none, such as examples of a batch, change together. Finite sites: Bernoulli,
    Categorical, OneHotCategorical, Binomial. Unbiased: the score function averaged over z[n]. Of
    bits it is known as BitFlip-1.
    Titsias and Lázaro-Gredilla (2015), "Local expectation gradients for black box variational
    inference", section 3; Tokui and Sato (2017), "Evaluating the variance of likelihood-ratio
    gradient estimators".
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        values = site.other_values(self)
        found = site.evaluate_alone_all(values)
        total = (site.credit * site.log_prob(site.value).exp()).sum()
        for value, credit in zip(values, found, strict=True):
            total = total + (credit * site.log_prob(value).exp()).sum()
        return total
