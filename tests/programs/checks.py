"""Functions made of source text that look at a draw, as checks do, and the loss around them."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import linecache
import math
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

THETA = torch.tensor([0.3, -0.8], dtype=torch.float64, requires_grad=True)


@dataclass
class Box:
    """Something with attributes."""

    most: float = 4.0
    is_checked: bool = True


class Layer(nn.Module):
    """A module with attributes of Python, and one that is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 4

    @property
    def computed(self) -> int:
        return self.most


def made(source: str) -> Callable[..., object]:
    """Return a function with this body; pytest leaves its assertions as they are."""
    text = f"def f(z, y, no, box, layer, seen):\n{textwrap.indent(source, '    ')}\n    return 1\n"
    name = f"<{source}>"
    linecache.cache[name] = (len(text), None, text.splitlines(True), name)
    space: dict[str, Any] = {"math": math, "torch": torch, "most": 4.0, "suppress": suppress}
    exec(compile(text, name, "exec"), space)
    found: Callable[..., object] = space["f"]
    return found


def call(function: Callable[..., object], z: Tensor) -> object:
    return function(z, True, False, Box(), Layer(), [])


def drawn(theta: Tensor, body: Callable[..., object] | None) -> Tensor:
    """Return a loss of two draws, of which the first is looked at."""
    z, w = Bernoulli(logits=theta[0]).sample(), Bernoulli(logits=theta[1]).sample()
    cost = (w - 0.4) ** 2 * theta.exp().sum()
    if body is not None:
        call(body, z)
    return cost + (z - 0.3) ** 2 + theta[0] ** 2


def silent(theta: Tensor) -> Tensor:
    return drawn(theta, None)
