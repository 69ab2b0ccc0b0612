"""What tests of enumeration share: a finite site, and programs that are refused."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical

import ancestral as an

P = torch.tensor([0.2, 0.3, 0.5]).double()


def finite(name: str = "z") -> Tensor:
    """Sample one of three values."""
    return an.sample(name, Categorical(P))


def refused(program: Callable[[], object], pattern: str, first_dim: int = -3) -> None:
    """Assert that a program is refused where its finite sites are enumerated."""
    matching = pytest.raises(an.errors.EnumerationError, match=re.compile(pattern, re.DOTALL))
    with an.record(), an.handlers.enumerate(first_dim=first_dim), matching:
        program()
