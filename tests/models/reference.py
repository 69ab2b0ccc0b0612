"""A reference: a model in plain torch, and the estimators that a person who knows it would write.

The model returns one scalar loss and knows nothing of estimators. The surrogate by hand draws the
same values in the same order, and weighs the score of every single draw with exactly those costs
of its own example that it can change. The gradient of a draw's own log-density, where that is a
cost, has mean zero and is left out.

The usual estimator takes less thought: the cost of each example, and the log-density of all that is
drawn for it, are all that it needs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Setting:
    """A model and a batch."""

    model: nn.Module
    batch: tuple[Tensor, ...]

    def in_double(self) -> "Setting":
        """Return the same in double precision."""
        exact = (x.double() if x.is_floating_point() else x for x in self.batch)
        return Setting(self.model.double(), tuple(exact))


PerExample = tuple[Tensor, Tensor]
"""The cost of each example, [batch], and the log-density of what is drawn for it, [batch]."""


@dataclass(frozen=True)
class Reference:
    """A model with its surrogate by hand: at its usual size, and at one that can be enumerated.

    `learned` are the modules whose parameters the distributions of the draws come from.
    """

    words: str
    by_hand: Callable[..., Tensor]  # of the model and its batch
    per_example: Callable[..., PerExample]  # of the same
    learned: tuple[str, ...]
    usual: Callable[[], Setting]
    tiny: Callable[[], Setting]


def seeded(make: Callable[[], Setting]) -> Setting:
    """Return a setting whose parameters are always the same; the generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def reinforce(per_example: PerExample) -> Tensor:
    """Return the surrogate that weighs the score of each example with its cost.

    Williams (1992), "Simple statistical gradient-following algorithms".
    """
    cost, log_q = per_example
    return (cost.detach() * log_q + cost).mean()


def with_leave_one_out(per_example: PerExample) -> Tensor:
    """Return the same, less the mean cost of the other examples.

    Kool, van Hoof and Welling (2019), "Buy 4 REINFORCE samples, get a baseline for free!".
    """
    cost, log_q = per_example
    others = (cost.sum() - cost) / (len(cost) - 1)
    return ((cost - others).detach() * log_q + cost).mean()
