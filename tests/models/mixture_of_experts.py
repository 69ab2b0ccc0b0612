"""A mixture of experts in plain torch, of which a router draws one for each example."""

# torch.distributions has no annotations, and a plain model should not have to say so in each line.
# mypy: allow-untyped-calls

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Categorical

from models.hard_attention import digits
from models.reference import PerExample, Reference, Setting


class MixtureOfExperts(nn.Module):
    """Names a digit by one of several small nets, which a router draws."""

    def __init__(self, pixels: int = 64, experts: int = 8, hidden: int = 16) -> None:
        super().__init__()
        self.router = nn.Linear(pixels, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, 10))
            for _ in range(experts)
        )

    def answer(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the logits that expert z gives, [batch, 10]."""
        all_of_them = torch.stack([expert(x) for expert in self.experts], 1)
        return all_of_them[torch.arange(len(x)), z]

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy, the mean over the batch.

        Args:
            x: [batch, pixels].
            labels: [batch].
        """
        z = Categorical(logits=self.router(x)).sample()
        return F.cross_entropy(self.answer(x, z), labels)


def per_example(model: MixtureOfExperts, x: Tensor, labels: Tensor) -> PerExample:
    """Return the cross entropy of each digit, and log q of its expert."""
    q = Categorical(logits=model.router(x))
    z = q.sample()
    return F.cross_entropy(model.answer(x, z), labels, reduction="none"), q.log_prob(z)


def by_hand(model: MixtureOfExperts, x: Tensor, labels: Tensor) -> Tensor:
    """Return the surrogate: an expert changes the cross entropy of its own example."""
    cost, log_q = per_example(model, x, labels)
    return (log_q * cost.detach() + cost).mean()


def flat_digits(count: int, pixels: int = 64) -> tuple[Tensor, Tensor]:
    """Return the first pixels, and the labels, of some digits."""
    patches, labels = digits(count)
    return patches.flatten(1)[:, :pixels], labels


REFERENCE = Reference(
    "mixture of 8 experts",
    by_hand,
    per_example,
    learned=("router",),
    usual=lambda: Setting(MixtureOfExperts(), flat_digits(64)),
    tiny=lambda: Setting(MixtureOfExperts(pixels=3, experts=3, hidden=2), flat_digits(2, 3)),
)
