"""Language models that generate texts word by word: a table in float64, and a module."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import ancestral as an

WORDS, TEXTS = 3, 2
TABLE = torch.tensor([[0.4, -0.2], [0.1, 0.5]], dtype=torch.float64)
FIRST = torch.tensor([0, 1])


def logits_after(table: Tensor, words: Tensor) -> Tensor:
    """Return the logits of the word after each, [texts, time, 2]: a causal language model."""
    before = words.double().cumsum(1)[..., None]
    return table[words] * (1 + 0.3 * before)


def generate(table: Tensor) -> Tensor:
    """Draw the words after the first, one by one: [texts, 1 + WORDS]."""
    words = FIRST[:, None]
    for _ in range(WORDS):
        word = Categorical(logits=logits_after(table, words)[:, -1]).sample()
        words = torch.cat([words, word[:, None]], 1)
    return words


def until_the_end(table: Tensor) -> Tensor:
    """Draw words until all texts have ended, with 1; what is drawn after that is padding, 0."""
    words = FIRST[:, None] * 0
    is_going = torch.ones(TEXTS, dtype=torch.long)
    for _ in range(WORDS):
        word = Categorical(logits=logits_after(table, words)[:, -1]).sample()
        word = word * is_going
        is_going = is_going * (1 - word)
        words = torch.cat([words, word[:, None]], 1)
        if not bool(is_going.any()):
            break
    return words


class Decoder(nn.Module):
    """A language model with a layer of dropout."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.words = nn.Embedding(5, 8)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.dropout(self.words(ids).cumsum(1))
        logits: Tensor = self.head(h)
        return logits

    @torch.no_grad()
    def generate(self, ids: Tensor, steps: int, temperature: float = 1.0) -> Tensor:
        for _ in range(steps):
            chances = (self(ids)[:, -1] / temperature).softmax(-1)
            word = torch.multinomial(chances, 1)
            ids = torch.cat([ids, word], 1)
        return ids


def generated(**options: Any) -> tuple[Decoder, an.Trace, Tensor, Tensor]:
    """Return a model, the trace of texts that it drew without a gradient, they, and their loss."""
    torch.manual_seed(1)
    model = Decoder(options.pop("dropout", 0.0))
    with an.record() as trace:
        words = model.generate(torch.zeros(3, 1, dtype=torch.long), 4, **options)
        loss = words.double().sum(1).mean()
    return model, trace, an.untrack(words), loss
