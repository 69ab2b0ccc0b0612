"""An example: a small program in plain torch, and its surrogate by hand from its known graph.

A program knows nothing of estimators. Its surrogate draws the same values in the same order and
returns what the library should find: each element's log-probability times the detached sum of
exactly those cost elements that lie downstream of that element, plus the loss itself for what
autograd reaches. A constant that is only added to a cost lies downstream of nothing.

    def coin(logit: Tensor) -> Tensor:
        z = Bernoulli(logits=logit).sample()
        return (z - 0.45) ** 2

    @credits_of(coin, 0.3)
    def _(logit: Tensor) -> Tensor:
        q = Bernoulli(logits=logit)
        z = q.sample()
        return weigh(q.log_prob(z), (z - 0.45) ** 2)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from oracles import Program


def const(*rows: object) -> Tensor:
    """Return a constant in float64."""
    return torch.tensor(rows, dtype=torch.float64)


def weigh(log_prob: Tensor, credit: Tensor | float) -> Tensor:
    """Return the sum of log-probabilities, each times its credit, which is held constant."""
    return (log_prob * torch.as_tensor(credit).detach()).sum()


@dataclass(frozen=True)
class Example:
    """A program, the values of its parameters, and its surrogate by hand.

    `scores_are_costs` says that a draw's own log-probability is a term of the loss.
    """

    program: Program
    by_hand: Program
    values: tuple[Tensor, ...]
    scores_are_costs: bool = False

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """Fresh parameters."""
        return tuple(value.clone().requires_grad_() for value in self.values)


EXAMPLES: dict[str, Example] = {}
BY_SITE: dict[str, Program] = {}


def credits_of(
    program: Program, *values: Sequence[object] | float, **claims: bool
) -> Callable[[Program], Program]:
    """Register a surrogate by hand for `program` at these values of its parameters."""

    def register(by_hand: Program) -> Program:
        at = tuple(torch.tensor(value, dtype=torch.float64) for value in values)
        EXAMPLES[program.__name__] = Example(program, by_hand, at, **claims)
        return by_hand

    return register


def site_credits_of(program: Program) -> Callable[[Program], Program]:
    """Register a surrogate that gives all elements of a site the costs of any of them."""

    def register(by_hand: Program) -> Program:
        BY_SITE[program.__name__] = by_hand
        return by_hand

    return register
