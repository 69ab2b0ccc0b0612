"""The register of programs with control flow, and what they share.

Every program takes two logits and draws at least one coin. It runs without the library too, so that
its expectation can be enumerated.

    @control()
    def a_branch(theta: Tensor) -> Tensor:
        z = coin(theta[0])
        return const(0.3) * theta[1] if z > 0 else const(-1.1) + z

Those of one expression are the rows of a table:

    rows(control(), {"an_item": lambda theta: coin(theta[0]).item() * theta[1]})
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from oracles import Program

P = TypeVar("P", bound=Callable[..., object])
LOGITS = (0.3, -0.8)
TABLE = torch.tensor([0.4, -1.3, 0.9, 2.1], dtype=torch.float64)


@dataclass(frozen=True)
class Control:
    """A program and what is true of it.

    `escapes` says that a value leaves tensor land on every path, None that one may argue: up to the
    first escape Python knows nothing of any draw, so that either all paths escape or none.
    `decides` says that what follows depends on it though no tensor says so: to ignore it is biased.
    `is_regardless` says that finished terms are summed whatever the value is.
    """

    alone: Program
    escapes: bool | None
    decides: bool
    is_regardless: bool

    def program(self, theta: Tensor) -> Tensor:
        """Run beside a coin that has nothing to do with it.

        A loss that nothing followed on some path is refused; beside another it would be wrong.
        """
        beside = 0.3 * coin(theta[1])
        return self.alone(theta) + beside

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Fresh parameters."""
        return (torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True),)


CONTROL: dict[str, Control] = {}


def control(
    escapes: bool | None = True, decides: bool | None = None, is_regardless: bool = True
) -> Callable[[Program], Program]:
    """Register a program; by default it escapes, and what it does depends on that."""

    def register(program: Program) -> Program:
        assert program.__name__ not in CONTROL, program.__name__
        does = escapes is True if decides is None else decides
        CONTROL[program.__name__] = Control(program, escapes, does, is_regardless)
        return program

    return register


def rows(register: Callable[[P], object], programs: dict[str, P]) -> None:
    """Register programs of one expression, by name."""
    for name, program in programs.items():
        program.__name__ = name
        register(program)


def coin(logit: Tensor) -> Tensor:
    """Return a draw, 0 or 1, of the shape of the logit."""
    return Bernoulli(logits=logit).sample()


def coins(logits: Tensor, count: int) -> Tensor:
    """Return independent draws from one row of logits: [count, *logits]."""
    return Bernoulli(logits=logits).sample((count,))


def roll(logits: Tensor) -> Tensor:
    """Return a class, 0, 1 or 2, chosen by two logits and a third that is 0."""
    padded = torch.cat([logits, logits.new_zeros(1)])
    return Categorical(logits=padded).sample()


def num(value: float) -> Tensor:
    """Return a constant scalar in float64."""
    return torch.tensor(value, dtype=torch.float64)
