"""Unordered set: values without replacement, weighted by what their order does not tell."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from ancestral.estimators.rerun.site_draw import SiteDraw
from ancestral.trace.context.argument_checks import check_count

_MOST = 5


@dataclass(frozen=True)
class UnorderedSet:
    """Weigh values that are drawn without replacement as their set alone tells.

        g = Σ_n Σ_{s in S} R(S, s) (f_n(s) - Σ_{t in S} q(t) R_s(S, t) f_n(t)) ∇ q(s)
        R(S, s) = p_s(S - s) / p(S),   R_s(S, t) = p_st(S - s - t) / p_s(S - s),   R_s(S, s) = 1

    S are k values, the first of them what was drawn; p(S) is the probability of the set in any
    order, p_s and p_st those without the values s, t to choose from; f_n(v) the costs downstream of
    element n when it alone has the value v.

    Needs (k - 1) D evaluations more, for D elements that have costs in common. Bernoulli,
    Categorical and OneHotCategorical sites of at least k values. Unbiased; with k = C it is the
    exact sum. Kool, van Hoof and Welling (2020), "Estimating gradients for discrete random
    variables by sampling without replacement", theorem 1 and equation 17.

    Attributes:
        size: k, from 2 to 5: all k! orders are added up.
    """

    size: int = 2

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ValueError: if it is none.
        """
        check_count("UnorderedSet: size", self.size, least=2, most=_MOST)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate.

        Raises:
            EstimatorError: if the site has fewer values than the set.
        """
        site.expect(self, Bernoulli, Categorical, OneHotCategorical)
        probs = site.class_probs()
        if probs.shape[-1] < self.size:
            raise site.refused(
                self, f"sites of at least {self.size} values (size=)", f"{probs.shape[-1]} values"
            )
        if bool((probs <= 0).any()):
            raise site.refused(self, "sites whose values are all possible", "a value that is not")
        classes, left = [site.drawn_class], probs
        for _ in range(self.size - 1):
            left = left.scatter(-1, classes[-1][..., None], 0.0)
            classes.append(site.draw(Categorical(probs=left)))
        values = [site.of_class(index) for index in classes]
        q = [probs.gather(-1, index[..., None])[..., 0] for index in classes]
        found = [site.credit, *site.evaluate_alone_all(values[1:])]
        members = range(self.size)
        rest = probs
        for index in classes:
            rest = rest.scatter(-1, index[..., None], 0.0)
        left = rest.sum(-1)
        whole = _set_prob(q, left)
        parts = []
        for s in members:
            without = _set_prob([q[i] for i in members if i != s], left)
            baseline = q[s] * found[s]
            for t in members:
                if t != s:
                    fewer = _set_prob([q[i] for i in members if i not in (s, t)], left)
                    baseline = baseline + q[t] * fewer / without * found[t]
            weight = without / whole * (found[s] - baseline)
            parts.append(weight * site.log_prob(values[s]).exp())
        return torch.stack(parts).sum()


def _set_prob(probs: Sequence[Tensor], others: Tensor) -> Tensor:
    """Return the probability that values are those drawn first, in any order.

    Args:
        probs: the probability of each.
        others: that of all other values there are to choose from.
    """
    total = torch.zeros_like(others)
    for order in permutations(probs):
        way, left = torch.ones_like(others), others
        for prob in reversed(order):  # the last is drawn among what is left and itself
            left = left + prob
            way = way * prob / left
        total = total + way
    return total
