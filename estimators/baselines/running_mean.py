"""Running mean: the average credit of a site over the recordings before."""

import torch
from torch import Tensor

from ancestral.estimators.baselines.learned import Learned, Memory, decayed
from ancestral.estimators.credit.credit import Credit


class RunningMean(Learned):
    """The mean of the site's credit over the recordings before, exponentially weighted.

        b_t = m_{t-1} / (1 - d^{t-1}),   m_t = d · m_{t-1} + (1 - d) · mean(C_t)

    Unbiased, because b_t holds draws of earlier recordings only; it is zero before the first. One
    number for each site. Mnih and Gregor (2014), "Neural variational inference and learning in
    belief networks", section 2.3.
    """

    is_proven = True
    KEYS = frozenset({"sum", "weight"})

    def __init__(self, decay: float = 0.9) -> None:
        """Take the decay d of a step's weight, in [0, 1).

        Raises:
            ValueError: if it is not.
        """
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), not {decay}: 0 keeps the last step only")
        super().__init__()
        self.decay = decay

    def _predict(self, credit: Credit, memory: Memory) -> Tensor:
        """Return the mean of the recordings before, []."""
        if not memory:
            return torch.zeros_like(credit.total.detach().reshape(-1)[0])
        return (memory["sum"] / memory["weight"]).to(credit.total.dtype)

    def _learn(self, credit: Credit, memory: Memory) -> Memory:
        now = credit.total.detach().mean()
        rate = 1 - self.decay
        return {
            "sum": decayed(memory.get("sum", 0 * now), now, rate),
            "weight": decayed(memory.get("weight", 0 * now), torch.ones_like(now), rate),
        }
