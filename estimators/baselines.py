"""Baselines: what is subtracted from a downstream cost to lower the variance of its product.

A baseline is called with the credit of a site and returns a tensor, [], or with as many dimensions
as the site. It must not depend on the very draw whose score it is multiplied with: then
E[∇ log q(z) · b] = b · E[∇ log q(z)] = 0. Each docstring says why it does not; of what a user
writes, `ancestral.estimators.subtraction` proves it.
"""

import warnings
from typing import Protocol

import torch
from torch import Tensor

from ancestral.estimators.credit import Credit
from ancestral.provenance.tensor import untrack
from ancestral.trace.naming import stacklevel


class Baseline(Protocol):
    """What is subtracted from the credit of a site: [], or [*shape] with ones."""

    def __call__(self, credit: Credit, /) -> Tensor | float:
        """Return the baseline of one site for this step."""
        ...


class BaselineWarning(UserWarning):
    """A baseline has no effect."""

    def __init__(self, credit: Credit) -> None:
        """Name the site."""
        super().__init__(
            f"LeaveOneOut subtracts nothing from the credit of site {credit.name!r}, of shape "
            f"{list(credit.shape)}: no cost is kept apart along its first dimension, so that no "
            "element has others to learn from; trace.explain() names what mixes them; use "
            "an.RunningMean(), or draw several examples at once"
        )


class RunningMean:
    """The mean of the site's credit over the recordings before, exponentially weighted.

        b_t = m_{t-1} / (1 - d^{t-1}),   m_t = d · m_{t-1} + (1 - d) · mean(C_t)

    Unbiased, because b_t holds draws of earlier recordings only, whatever is asked of this one; it
    is zero before the first. One number for each site, known by its name. Mnih and Gregor (2014),
    "Neural variational inference and learning in belief networks", section 2.3.
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
        self._latest: dict[str, tuple[object, Tensor]] = {}  # the recording, and its baseline

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the mean of the recordings before, [], and take in this one."""
        recording, known = self._latest.get(credit.name, (None, None))
        if known is not None and recording is not None and recording == credit.recording:
            return known  # its own draws are in the mean by now
        now = untrack(credit.total).mean().detach()
        mean, weight = self._means.get(credit.name, (torch.zeros_like(now), 0.0))
        kept = 1 - self.decay
        self._means[credit.name] = (
            self.decay * mean + kept * now,
            self.decay * weight + kept,
        )
        before = mean / weight if weight else mean
        self._latest[credit.name] = (credit.recording, before)
        return before


class LeaveOneOut:
    """The mean of the credits of the other examples along the first dimension.

        b[n] = 1/(N-1) Σ_{m≠n} C[m]

    Unbiased, because only parts of the credit that are kept apart along that dimension count: C[m]
    holds no cost downstream of draw n. Parts that all examples share get no baseline; where all are
    shared, a BaselineWarning says so. Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples,
    get a baseline for free!", equation 8.
    """

    def __call__(self, credit: Credit, /) -> Tensor:
        """Return the mean over the other examples, broadcastable to the site's shape."""
        if not credit.is_apart(0):
            warnings.warn(BaselineWarning(credit), stacklevel=stacklevel())
        return credit.of_others(0)
