"""A reference: a model in plain torch, and the estimator that a person who knows it would write.

The model returns one scalar loss and knows nothing of estimators. The surrogate by hand draws the
same values in the same order, and weighs the score of every single draw with exactly those costs
of its own example that it can change. The gradient of a draw's own log-density, where that is a
cost, has mean zero and is left out.
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


@dataclass(frozen=True)
class Reference:
    """A model with its surrogate by hand: at its usual size, and at one that can be enumerated.

    `learned` are the modules whose parameters the distributions of the draws come from.
    """

    words: str
    by_hand: Callable[..., Tensor]  # of the model and its batch
    learned: tuple[str, ...]
    usual: Callable[[], Setting]
    tiny: Callable[[], Setting]


def seeded(make: Callable[[], Setting]) -> Setting:
    """Return a setting whose parameters are always the same; the generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()
