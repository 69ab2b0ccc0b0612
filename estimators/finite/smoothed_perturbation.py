"""Smoothed perturbation: what the loss rises by where a draw is moved to the next value."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.rerun.site_draw import SiteDraw


@dataclass(frozen=True)
class SmoothedPerturbation:
    """Move each draw to the value before it and to the one after, at the rate of their boundary.

        g = Σ_n (f_n(z) - f_n(z+)) ∇Q(z) / (q(z) + q(z+))
            + (f_n(z-) - f_n(z)) ∇Q(z-) / (q(z-) + q(z))
        Q(v) = Σ_{u ≤ v} q(u),   z-, z+ the possible values before and after z, in their order

    A draw is v where a uniform number is between Q(v-) and Q(v). As the parameters move, so does
    each boundary, at the rate ∇Q(v), and with it the draws that are nearest, which become the next
    value. Smoothed perturbation analysis averages over where between the boundaries the number is;
    whether the draw below or the one above crosses depends on the sign of the derivative, and is
    averaged over here too, so that of two values the estimate is that of `LocalExpectation`.

    Needs at most 2 D evaluations more, for D elements that have costs in common, however many
    values there are; D for bits. Finite sites: Bernoulli, Categorical, OneHotCategorical, Binomial.
    Unbiased: Σ_v (f(v) - f(v+)) ∇Q(v) is Σ_v f(v) ∇q(v), summed by parts. It has little variance
    where the loss of neighbouring values is alike. Gong and Ho (1987), "Smoothed (conditional)
    perturbation analysis of discrete event dynamical systems"; Arya, Schauer, Schäfer and
    Rackauckas (2022), "Automatic differentiation of programs with discrete randomness", section 3.
    """

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        support, drawn = site.ordered_values(self)
        log_probs = torch.stack([site.log_prob(value) for value in support])  # [C, *shape]
        probs = torch.where(log_probs > -torch.inf, log_probs, 0).exp()
        probs = torch.where(log_probs > -torch.inf, probs, 0)
        place = torch.arange(len(support), device=drawn.device)
        place = place.reshape(-1, *(1,) * drawn.dim())
        is_possible = probs.detach() > 0
        after = torch.where(is_possible & (place > drawn), place, len(support)).min(0).values
        before = torch.where(is_possible & (place < drawn), place, -1).max(0).values
        has_after, has_before = after < len(support), before >= 0
        after, before = torch.where(has_after, after, drawn), torch.where(has_before, before, drawn)
        # Bits have one neighbour: both are looked at in one run.
        is_one = len(support) == 2
        looked_at = [torch.where(has_after, after, before)] if is_one else [after, before]
        found = site.evaluate_alone_all([_picked(support, index) for index in looked_at])
        q = probs.detach().gather(0, torch.stack([drawn, after, before]))
        up = torch.where(has_after, (site.credit - found[0]) / (q[0] + q[1]), 0)
        down = torch.where(has_before, (found[-1] - site.credit) / (q[0] + q[2]), 0)
        below = probs.cumsum(0).gather(0, torch.stack([drawn, before]))
        return (up * below[0] + down * below[1]).sum()


def _picked(support: Tensor, index: Tensor) -> Tensor:
    """Return the values [*shape, *event] of given numbers [*shape], of values [C, ...]."""
    event = support.dim() - 1 - index.dim()
    index = index[(None, ..., *(None,) * event)].expand(1, *support.shape[1:])
    return support.gather(0, index)[0]
