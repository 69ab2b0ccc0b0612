"""Time: costs that are accumulated step by step."""

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import (
    Weighed,
    const,
    credits_of,
    example,
    site_credits_of,
    weigh,
    weigh_to_go,
)
from programs.sites import LOGITS

TRANSITIONS = (-0.4, 0.9)


def chain_steps(logits: Tensor, length: int) -> list[Tensor]:
    """Return the costs of a two-state Markov chain that starts in state 0."""
    z = const(0.0)[0]
    costs: list[Tensor] = []
    for _ in range(length):
        z = Bernoulli(logits=logits[0] * (1 - z) + logits[1] * z).sample()
        costs.append((z - 0.45) ** 2)
    return costs


def chain_by_hand(logits: Tensor) -> Tensor:
    """Return the surrogate that gives every draw the costs from then on."""
    z, draws, costs = const(0.0)[0], [], []
    for _ in range(4):
        q = Bernoulli(logits=logits[0] * (1 - z) + logits[1] * z)
        z = q.sample()
        draws.append((q, z))
        costs.append((z - 0.45) ** 2)
    return weigh_to_go(draws, costs)


def chain_that_adds(logits: Tensor) -> Tensor:
    loss = const(0.0)[0]
    for cost in chain_steps(logits, 4):
        loss = loss + cost
    return loss


def chain_that_adds_in_place(logits: Tensor) -> Tensor:
    loss = torch.zeros((), dtype=torch.float64)
    for cost in chain_steps(logits, 4):
        loss += cost
    return loss


def chain_that_sums_a_list(logits: Tensor) -> Tensor:
    return sum(chain_steps(logits, 4), torch.zeros((), dtype=torch.float64))


def chain_that_stacks(logits: Tensor) -> Tensor:
    return torch.stack(chain_steps(logits, 4)).sum()


credits_of(chain_that_adds, TRANSITIONS)(chain_by_hand)
credits_of(chain_that_adds_in_place, TRANSITIONS)(chain_by_hand)
credits_of(chain_that_sums_a_list, TRANSITIONS)(chain_by_hand)
credits_of(chain_that_stacks, TRANSITIONS)(chain_by_hand)
site_credits_of(chain_that_adds)(chain_by_hand)


def batch_of_chains(stay: Tensor, leave: Tensor) -> list[Tensor]:
    """Return the costs of the even times; the examples of the batch never meet."""
    z = const(0.0, 1.0)
    costs: list[Tensor] = []
    for t in range(3):
        z = Bernoulli(logits=stay * z + leave * (1 - z)).sample()
        if t % 2 == 0:
            costs.append(0.9**t * (z - 0.3) ** 2)
    return costs


def batch_of_chains_by_hand(stay: Tensor, leave: Tensor) -> Tensor:
    """Return the surrogate that gives every draw its own example's costs from then on."""
    z, draws, costs = const(0.0, 1.0), [], []
    for t in range(3):
        q = Bernoulli(logits=stay * z + leave * (1 - z))
        z = q.sample()
        draws.append((q, z))
        costs.append((0.9**t * (z - 0.3) ** 2) / 2 if t % 2 == 0 else torch.zeros_like(z))
    return weigh_to_go(draws, costs)


def batch_that_adds(stay: Tensor, leave: Tensor) -> Tensor:
    loss = const(0.0, 0.0)
    for cost in batch_of_chains(stay, leave):
        loss = loss + cost
    return loss.mean()


def batch_that_adds_in_place(stay: Tensor, leave: Tensor) -> Tensor:
    loss = torch.zeros(2, dtype=torch.float64)
    for cost in batch_of_chains(stay, leave):
        loss += cost
    return loss.mean()


def batch_that_stacks(stay: Tensor, leave: Tensor) -> Tensor:
    return torch.stack(batch_of_chains(stay, leave), dim=1).sum(1).mean()


def batch_that_concatenates(stay: Tensor, leave: Tensor) -> Tensor:
    return torch.cat(batch_of_chains(stay, leave)).sum() / 2


credits_of(batch_that_adds, 0.8, -0.5)(batch_of_chains_by_hand)
credits_of(batch_that_adds_in_place, 0.8, -0.5)(batch_of_chains_by_hand)
credits_of(batch_that_stacks, 0.8, -0.5)(batch_of_chains_by_hand)
credits_of(batch_that_concatenates, 0.8, -0.5)(batch_of_chains_by_hand)


@example((0.3, -0.8), 1.3)
def in_place_onto_the_first_cost(logits: Tensor, scale: Tensor) -> Weighed:
    q_a = Bernoulli(logits=logits[0])
    a = q_a.sample()
    q_b = Bernoulli(logits=logits[1] * a)
    b = q_b.sample()
    early, late = (scale * (a - 0.3)) ** 2, (b - 0.8) ** 2
    loss = (scale * (a - 0.3)) ** 2
    loss += (b - 0.8) ** 2
    return loss, lambda: weigh(q_a.log_prob(a), early + late) + weigh(q_b.log_prob(b), late)


@example(LOGITS)
def costs_and_rewards(logits: Tensor) -> Weighed:
    """Terms are subtracted in place, and scaled by what they are divided by."""
    loss, z, draws, costs = torch.zeros((), dtype=torch.float64), const(0.0, 0.0), [], []
    for t in range(3):
        q = Bernoulli(logits=logits[t] + z)
        z = q.sample()
        loss -= (z * const(1.0, 2.0)).sum() / (t + 1)
        loss = torch.add(loss, z.square().mean(), alpha=0.3)
        draws.append((q, z))
        costs.append(0.15 * z - z * const(1.0, 2.0) / (t + 1))
    return loss, lambda: weigh_to_go(draws, costs)
