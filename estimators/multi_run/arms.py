"""ARMS: several antithetic draws of bits, that a copula ties together."""

from dataclasses import dataclass
from itertools import product
from math import comb

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from ancestral.estimators.rerun.site_draw import SiteDraw
from ancestral.trace.context.argument_checks import check_count

_MOST = 8


@dataclass(frozen=True)
class ARMS:
    """Compare several draws of bits that are as unlike each other as a Dirichlet copula makes them.

        g[n] = 1/(K-1) Σ_k (f_n(b_k) - 1/K Σ_j f_n(b_j)) (b_k[n] - p[n]) p (1 - p) / (p - C) ∇φ[n]
        C = P(b_j[n] = b_k[n] = 1),   P(all of m draws hit) = max(0, 1 - m c)^(K-1)

    A hit is a one, with c = 1 - p^(1/(K-1)), or a zero, with c = 1 - (1 - p)^(1/(K-1)): of both,
    what makes C smaller. At K = 2 it is DisARM.

    Needs K - 1 evaluations more. Bernoulli sites, by logits or probs. Unbiased. The other draws are
    drawn given the bits that the site has, as one of their 2^(K-1) patterns.
    Dimitriev and Zhou (2021), "ARMS: antithetic-REINFORCE-multi-sample gradient for binary
    variables", theorem 1 and section 3.2.

    Attributes:
        samples: K, from 2 to 8.
    """

    samples: int = 4

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ValueError: if it is none.
        """
        check_count("ARMS: samples", self.samples, least=2, most=_MOST)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli)
        count, logits, bits = self.samples, site.parameter("logits"), site.value
        p = torch.sigmoid(logits.detach()).double()
        both_ones = _all_hit(p, count)
        both_zeros = _all_hit(1 - p, count)
        is_one = both_ones[2] <= 2 * p - 1 + both_zeros[2]  # a hit is a one
        hit = torch.where(is_one, both_ones, both_zeros)
        is_hit = torch.where(is_one, bits > 0, bits == 0)
        patterns = torch.tensor([*product((0, 1), repeat=count - 1)], device=bits.device)
        exactly = torch.stack([_exactly(hit, hits) for hits in range(count + 1)], -1)
        hits = patterns.sum(1) + is_hit[..., None].long()
        weights = exactly.gather(-1, hits).clamp(min=0)
        chosen = site.draw(Categorical(probs=weights))
        other_hits = patterns[chosen].movedim(-1, 0) > 0
        others = torch.where(is_one, other_hits, ~other_hits).to(bits.dtype)
        draws = torch.stack([bits, *others])
        found = torch.stack([site.credit, *site.evaluate_all([*others])])
        both = torch.where(is_one, hit[2], 2 * p - 1 + hit[2])
        apart = (p - both).clamp(min=torch.finfo(p.dtype).tiny)
        scale = (p * (1 - p) / apart).to(bits.dtype)
        compared = (found - found.mean(0)) * (draws - p.to(bits.dtype))
        return (compared.sum(0) / (count - 1) * scale * logits).sum()


def _all_hit(p: Tensor, count: int) -> Tensor:
    """Return the probabilities that all of 0, 1, ... `count` draws hit, one hitting with p."""
    edge = 1 - p ** (1 / (count - 1))
    return torch.stack([(1 - m * edge).clamp(min=0) ** (count - 1) for m in range(count + 1)])


def _exactly(hit: Tensor, hits: int) -> Tensor:
    """Return the probability that of all draws certain ones hit, so many, and no others."""
    left = len(hit) - 1 - hits
    terms = [(-1) ** j * comb(left, j) * hit[hits + j] for j in range(left + 1)]
    return torch.stack(terms).sum(0)
