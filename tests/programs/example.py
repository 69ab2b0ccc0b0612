"""An example: a small program in plain torch, and its surrogate by hand from its known graph.

A program knows nothing of estimators. Beside its loss it returns the score part of its surrogate:
each element's log-probability times the detached sum of exactly those cost elements that lie
downstream of that element. The surrogate is that plus the loss itself, for what autograd reaches.
A constant that is only added to a cost lies downstream of nothing.

    @example(0.3)
    def coin(logit: Tensor) -> Weighed:
        q = Bernoulli(logits=logit)
        z = q.sample()
        cost = (z - 0.45) ** 2
        return cost, lambda: weigh(q.log_prob(z), cost)

Where the log-probability of a draw is itself a cost, autograd of the loss is no part of the
surrogate: there it is a separate function, under `credits_of`.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from oracles import Program


def const(*rows: object) -> Tensor:
    """Return a constant in float64."""
    return torch.tensor(rows, dtype=torch.float64)


def weigh(log_prob: Tensor, credit: Tensor | float) -> Tensor:
    """Return the sum of log-probabilities, each times its credit, which is held constant."""
    return (log_prob * torch.as_tensor(credit).detach()).sum()


def weigh_to_go(draws: Sequence[tuple[Distribution, Tensor]], costs: Sequence[Tensor]) -> Tensor:
    """Return the scores of draws in turn, each weighed with the costs from then on."""
    to_go = torch.stack(list(costs)).flip(0).cumsum(0).flip(0)
    return weigh(torch.stack([q.log_prob(z) for q, z in draws]), to_go)


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


Weighed = tuple[Tensor, Callable[[], Tensor]]
"""A loss, and the score part of its surrogate, which is computed by hand only."""


def example(*values: Sequence[object] | float) -> Callable[[Callable[..., Weighed]], Program]:
    """Register a program together with the score part of its surrogate, at these values."""

    def register(both: Callable[..., Weighed]) -> Program:
        @functools.wraps(both)
        def program(*parameters: Tensor) -> Tensor:
            return both(*parameters)[0]

        @credits_of(program, *values)
        def by_hand(*parameters: Tensor) -> Tensor:
            loss, scores = both(*parameters)
            return loss + scores()

        return program

    return register


def site_credits_of(program: Program) -> Callable[[Program], Program]:
    """Register a surrogate that gives all elements of a site the costs of any of them."""

    def register(by_hand: Program) -> Program:
        BY_SITE[program.__name__] = by_hand
        return by_hand

    return register
