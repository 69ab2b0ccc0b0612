"""Walkers on a line, which torch cannot see, and the logits of what they do."""

import numpy as np
import torch
from torch import Tensor

THETA = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)


class Walks:
    """Some walkers on a line, each with a place of its own, that pays and shows it."""

    def __init__(self, count: int = 2) -> None:
        self.places = np.zeros(count)

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.places += np.where(actions > 0.5, 1.0, -0.7)
        return self.places, np.tanh(self.places) * (1 + np.arange(len(self.places)))

    def push(self, actions: Tensor) -> None:
        self.step(actions.numpy())

    def look(self, scale: Tensor) -> np.ndarray:
        return self.places * float(scale.numpy().mean())
