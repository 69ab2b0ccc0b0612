"""Baselines: what is subtracted from a downstream cost to lower the variance of its product.

A baseline is called with the credit of a site and returns a tensor that broadcasts to the site's
shape. It must not depend on the very draw whose score it is multiplied with: then
E[∇ log q(z) · b] = b · E[∇ log q(z)] = 0. Each docstring says why it does not.
"""

from typing import Protocol

import torch
from torch import Tensor

from ancestral.estimators.credit import Credit


class Baseline(Protocol):
    """What is subtracted from the credit of a site, broadcastable to the site's shape."""

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the baseline of one site for this step."""
        ...


class RunningMean:
    """The mean of the site's credit over the steps before, exponentially weighted.

        b_t = m_{t-1} / (1 - d^{t-1}),   m_t = d · m_{t-1} + (1 - d) · mean(C_t)

    Unbiased, because b_t holds earlier draws only; before the first step it is zero. One number for
    each site, known by its name. Mnih and Gregor (2014), "Neural variational inference and learning
    in belief networks", section 2.3.
    """

    def __init__(self, decay: float = 0.9) -> None:
        """Take the decay d of a step's weight, in [0, 1).

        Raises:
            ValueError: if it is not.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {decay}: 0 keeps the last step only")
        self.decay = decay
        self._means: dict[str, tuple[Tensor, float]] = {}

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the mean of the steps before, [], and take in this one."""
        now = credit.total.mean().detach()
        mean, weight = self._means.get(credit.name, (torch.zeros_like(now), 0.0))
        kept = 1 - self.decay
        self._means[credit.name] = (
            self.decay * mean + kept * now,
            self.decay * weight + kept,
        )
        return mean / weight if weight else mean


class LeaveOneOut:
    """The mean of the credits of the other examples along the first dimension.

        b[n] = 1/(N-1) Σ_{m≠n} C[m]

    Unbiased, because only parts of the credit that are kept apart along that dimension count: C[m]
    holds no cost downstream of draw n. Parts that all examples share get no baseline. Kool, van
    Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for free!", equation 8.
    """

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the mean over the other examples, broadcastable to the site's shape."""
        apart = [p for p in credit.parts if p.ndim and p.shape[0] == credit.shape[0] > 1]
        if not apart:
            return torch.zeros((), dtype=credit.total.dtype, device=credit.total.device)
        costs = sum(apart[1:], apart[0])
        return (costs.sum(0, keepdim=True) - costs) / (costs.shape[0] - 1)
