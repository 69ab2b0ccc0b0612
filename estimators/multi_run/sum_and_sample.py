"""Sum and sample: the likely values are summed, one of the others is sampled."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, OneHotCategorical

from ancestral.estimators.rerun.site_draw import SiteDraw
from ancestral.trace.context.argument_checks import check_count


@dataclass(frozen=True)
class SumAndSample:
    """Sum over the most likely values of each element, and sample one of the others.

        g = Σ_n [ Σ_{v in T} f_n(v) ∇ q(v) + (1 - q(T)) f_n(s) ∇ log q(s) ],   s ~ q( · | not in T)

    T are the k most likely values, f_n(v) the costs downstream of element n when it alone has the
    value v. What was drawn is s where it is not in T.

    Needs at most (k + 1) D evaluations more, for D elements that have costs in common. Bernoulli,
    Categorical and OneHotCategorical sites. Unbiased: the score function averaged over whether the
    value is in T, and over T. Liu, Regier, Tripuraneni, Jordan and McAuliffe (2019),
    "Rao-Blackwellized stochastic gradients for discrete distributions", equation 6.

    Attributes:
        top: k, at least 1.
    """

    top: int = 1

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ValueError: if it is none.
        """
        check_count("SumAndSample: top", self.top)

    def __call__(self, site: SiteDraw) -> Tensor:
        """Return the part of the surrogate."""
        site.expect(self, Bernoulli, Categorical, OneHotCategorical)
        probs = site.class_probs()  # [*shape, C]
        count = min(self.top, probs.shape[-1])
        likely = probs.topk(count, -1).indices
        parts = []
        for index in likely.unbind(-1):
            value = site.of_class(index)
            parts.append(site.evaluate_alone(value) * site.log_prob(value).exp())
        if count < probs.shape[-1]:
            others = probs.scatter(-1, likely, 0.0)
            rest = others.sum(-1)
            # Where nothing is left, what was drawn stands for it, and weighs nothing.
            is_none = rest <= 0
            drawn = site.draw(Categorical(probs=others + is_none[..., None].to(others)))
            is_likely = (likely == site.drawn_class[..., None]).any(-1)
            is_drawn = is_likely & ~is_none
            value = site.of_class(torch.where(is_drawn, drawn, site.drawn_class))
            parts.append(rest * site.evaluate_alone(value) * site.log_prob(value))
        return torch.stack(parts).sum()
