"""Log of a mean of powers of weights: the function of the importance-weighted bounds.

>>> import torch
>>> LogMean()(torch.tensor([0.0, 0.0]))
tensor(0.)
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LogMean:
    """The function f(x) = 1/β log 1/K Σ_k exp(β x_k) along the first dimension.

    It is Burda's bound for β = 1, and Rényi's of order α for β = 1 - α.
    """

    power: float = 1.0

    def __call__(self, log_weights: Tensor) -> Tensor:
        """Return f, without the first dimension."""
        total = torch.logsumexp(self.power * log_weights, 0)
        return (total - math.log(len(log_weights))) / self.power

    def derivatives(self, log_weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ∂f/∂x_k, ∂²f/∂x_k², and f with the mean of the others in the place of x_k.

        Each of the shape of the log-weights, by as many operations, however many draws there are.
        """
        scaled, count = self.power * log_weights, len(log_weights)
        slope = torch.softmax(scaled, 0)
        bend = self.power * slope * (1 - slope)
        if count == 1:
            return slope, bend, torch.zeros_like(slope)
        nothing = torch.full_like(scaled[:1], -math.inf)
        before = torch.cat([nothing, torch.logcumsumexp(scaled, 0)[:-1]])
        after = torch.cat([torch.logcumsumexp(scaled.flip(0), 0).flip(0)[1:], nothing])
        means = (scaled.sum(0) - scaled) / (count - 1)
        total = torch.logaddexp(torch.logaddexp(before, after), means)
        return slope, bend, (total - math.log(count)) / self.power
