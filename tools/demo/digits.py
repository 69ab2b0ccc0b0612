"""Real handwritten digits as binary images: the 1,797 of scikit-learn, each 8 by 8 pixels.

They come with scikit-learn itself, so nothing is fetched.

>>> digits = load()
>>> tuple(digits.train.shape), tuple(digits.held_out.shape)
((1500, 64), (297, 64))

Alpaydin and Kaynak (1998), "Optical recognition of handwritten digits", UCI machine learning
repository.
"""

from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # has no annotations
from torch import Tensor

THRESHOLD = 8
"""Pixels come as ink from 0 to 16; one with at least this much is a one."""

HELD_OUT = 297
"""How many images are kept from training."""


@dataclass(frozen=True)
class Digits:
    """Binary images in two disjoint parts, float32 zeros and ones."""

    train: Tensor  # [1500, 64]
    held_out: Tensor  # [297, 64]


def load(split_seed: int = 0) -> Digits:
    """Return the digits, split at random by this seed alone."""
    ink = torch.as_tensor(load_digits(return_X_y=True)[0])  # [1797, 64]
    images = (ink >= THRESHOLD).to(torch.float32)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(split_seed))
    return Digits(train=images[order[HELD_OUT:]], held_out=images[order[:HELD_OUT]])
