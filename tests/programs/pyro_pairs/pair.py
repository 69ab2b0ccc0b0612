"""Pairs of a model and a guide in Pyro whose draws can be enumerated, and their parameters.

A pair is a function of a guide's parameters q and a model's p, both of four logits, that returns
the model and the guide.
"""

# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from programs.in_pyro import pyro
from programs.pyro_links import LINKS, Link

Program = Callable[..., Any]
Pair = Callable[[Tensor, Tensor], tuple[Program, Program]]
PAIRS: dict[str, Pair] = {}
T = torch.tensor
DATA = torch.tensor([0.7, -0.4], dtype=torch.float64)
MATRIX = torch.tensor([[0.7, -0.4, 1.1], [0.2, 0.9, -0.6]], dtype=torch.float64)


def coin(name: str, logits: Any, **options: Any) -> Tensor:
    return pyro.sample(name, dist.Bernoulli(logits=torch.as_tensor(logits)), **options)


def seen(name: str, loc: Any, data: Any = DATA[0]) -> Tensor:
    return pyro.sample(name, dist.Normal(torch.as_tensor(loc), 1.0), obs=data)


def in_guide(link: Link, q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Draw in the guide by what another draw says."""

    def model() -> None:
        a, b = coin("a", p[0]), coin("b", p[1])
        seen("x", a + 2 * b)

    def guide() -> None:
        a = coin("a", q[0])
        coin("b", q[1] + q[2] * link(a))

    return model, guide


def in_density(link: Link, q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Observe in the model by what a draw says, beside what another one says."""

    def model() -> None:
        a, b = coin("a", p[0]), coin("b", p[1])
        seen("x", link(a) * p[2])
        seen("y", 2 * b, DATA[1])

    def guide() -> None:
        coin("a", q[0])
        coin("b", q[1])

    return model, guide


def in_prior(link: Link, q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Draw in the model by what another draw says."""

    def model() -> None:
        a = coin("a", p[0])
        b = coin("b", p[1] + p[2] * link(a))
        seen("x", b)

    def guide() -> None:
        coin("a", q[0])
        coin("b", q[1])

    return model, guide


for _name, _link in LINKS.items():
    for _place in (in_guide, in_density, in_prior):
        PAIRS[f"{_place.__name__}: {_name}"] = partial(_place, _link)


def pair(function: Pair) -> Pair:
    PAIRS[function.__name__] = function
    return function


def two_coins(q: Tensor) -> Program:
    def guide() -> None:
        coin("a", q[0])
        coin("b", q[1])

    return guide
