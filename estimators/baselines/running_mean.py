"""Running mean: the average credit of a site over the recordings before."""

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit
from ancestral.provenance.tensor.tensor import untrack


class RunningMean:
    """The mean of the site's credit over the recordings before, exponentially weighted.

        b_t = m_{t-1} / (1 - d^{t-1}),   m_t = d · m_{t-1} + (1 - d) · mean(C_t)

    Unbiased, because b_t holds draws of earlier recordings only, whatever this one is used for; it
    is zero before the first. One number for each site, known by its name. Mnih and Gregor (2014),
    "Neural variational inference and learning in belief networks", section 2.3.
    """

    is_proven = True

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
