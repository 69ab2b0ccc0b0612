"""Hard attention in plain torch: a recurrent net that looks at few patches, one after another."""

# torch.distributions has no annotations, and a plain model should not have to say so in each line.
# mypy: allow-untyped-calls

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # has no annotations
from torch import Tensor, nn
from torch.distributions import Categorical

from models.reference import PerExample, Reference, Setting


class HardAttention(nn.Module):
    """Names a digit after some glimpses at patches of it; a glimpse has the price of its place."""

    price: Tensor  # [places]

    def __init__(
        self, places: int = 16, pixels: int = 4, glimpses: int = 4, hidden: int = 32
    ) -> None:
        super().__init__()
        self.glimpses, self.hidden = glimpses, hidden
        self.cell = nn.GRUCell(pixels, hidden)
        self.locate = nn.Linear(hidden, places)
        self.classify = nn.Linear(hidden, 10)
        self.register_buffer("price", torch.linspace(0, 1, places))

    def forward(self, patches: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy and the price of the glimpses, the mean over the batch.

        Args:
            patches: [batch, places, pixels].
            labels: [batch].
        """
        batch = len(patches)
        h = patches.new_zeros(batch, self.hidden)
        loss = patches.new_zeros(())
        for _ in range(self.glimpses):
            z = Categorical(logits=self.locate(h)).sample()
            h = self.cell(patches[torch.arange(batch), z], h)
            loss = loss + self.price[z].mean()
        return loss + F.cross_entropy(self.classify(h), labels)


def by_hand(model: HardAttention, patches: Tensor, labels: Tensor) -> Tensor:
    """Return the surrogate: a place changes its own price, those after it, and the answer."""
    batch = len(patches)
    h = patches.new_zeros(batch, model.hidden)
    log_probs, prices = [], []
    for _ in range(model.glimpses):
        q = Categorical(logits=model.locate(h))
        z = q.sample()
        h = model.cell(patches[torch.arange(batch), z], h)
        log_probs.append(q.log_prob(z))
        prices.append(model.price[z])
    answer = F.cross_entropy(model.classify(h), labels, reduction="none")
    to_come, scores = answer.detach(), torch.zeros_like(answer)
    for log_prob, price in zip(reversed(log_probs), reversed(prices), strict=True):
        to_come = to_come + price
        scores = scores + log_prob * to_come
    return (scores + answer).mean()


def per_example(model: HardAttention, patches: Tensor, labels: Tensor) -> PerExample:
    """Return the cross entropy and the price of each digit, and log q of its glimpses."""
    batch = len(patches)
    h = patches.new_zeros(batch, model.hidden)
    cost, log_q = patches.new_zeros(batch), patches.new_zeros(batch)
    for _ in range(model.glimpses):
        q = Categorical(logits=model.locate(h))
        z = q.sample()
        h = model.cell(patches[torch.arange(batch), z], h)
        cost, log_q = cost + model.price[z], log_q + q.log_prob(z)
    return cost + F.cross_entropy(model.classify(h), labels, reduction="none"), log_q


def digits(count: int, places: int = 16) -> tuple[Tensor, Tensor]:
    """Return the first patches, 2 by 2 pixels, and the labels of some digits."""
    ink, labels = (torch.as_tensor(part[:count]) for part in load_digits(return_X_y=True))
    image = (ink / 16).float().view(count, 8, 8)
    patches = image.unfold(1, 2, 2).unfold(2, 2, 2).reshape(count, 16, 4)
    return patches[:, :places], labels


REFERENCE = Reference(
    "hard attention, 4 glimpses",
    by_hand,
    per_example,
    learned=("locate", "cell"),
    usual=lambda: Setting(HardAttention(), digits(64)),
    tiny=lambda: Setting(HardAttention(places=3, glimpses=2, hidden=4), digits(2, places=3)),
)
