"""Sequences over a batch, drawn step by step in a loop: every step has its reward-to-go."""

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from programs.example import Weighed, const, example, weigh_to_go

FIRST = const(0.3, -0.5)  # for each example
SEEN = (const(0.2, 0.9), const(-0.4, 0.1), const(1.1, -0.7))


@example((0.8, -0.3))
def hidden_markov(weights: Tensor) -> Weighed:
    """Draw the states of two sequences, with the cost of what is seen in each step."""
    z, loss, draws, costs = FIRST, torch.zeros((), dtype=torch.float64), [], []
    for seen in SEEN:
        q = Bernoulli(logits=weights[0] * z + weights[1])
        z = q.sample()
        loss = loss + ((z - seen) ** 2).sum() / 2
        draws.append((q, z))
        costs.append((z - seen) ** 2 / 2)
    return loss, lambda: weigh_to_go(draws, costs)


@example((0.8, -0.3))
def recurrent_sampler(weights: Tensor) -> Weighed:
    """Draw from a state that is fed with the draws, the costs in a list that is summed at last."""
    state, draws, costs = FIRST, [], []
    for seen in SEEN:
        q = Bernoulli(logits=state * weights[0])
        z = q.sample()
        draws.append((q, z))
        costs.append((z - seen).abs() * state)
        state = torch.tanh(state + weights[1] * z)
    return torch.stack(costs, 1).sum(1).mean(), lambda: weigh_to_go(draws, [c / 2 for c in costs])


@example((0.8, -0.3))
def episodes_that_end(weights: Tensor) -> Weighed:
    """Roll out two episodes that a mask ends, without a word to Python."""
    alive, loss = torch.ones(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    draws, costs = [], []
    for seen in SEEN:
        q = Bernoulli(logits=(weights[0] + FIRST * weights[1]) * alive)
        z = q.sample()
        alive = alive * z
        loss = loss - ((seen + z).exp() * alive).sum()
        draws.append((q, z))
        costs.append(-(seen + z).exp() * alive)
    return loss, lambda: weigh_to_go(draws, costs)


@example(((0.4, -0.2), (0.1, 0.5)))
def decoding(table: Tensor) -> Weighed:
    """Draw tokens, the logits of each being the row of the last in a table."""
    token, draws, costs = torch.tensor([0, 1]), [], []
    for step in range(2):
        q = Categorical(logits=table[token])
        token = q.sample()
        draws.append((q, token))
        costs.append((token.double() - step * 0.4) ** 2 * (FIRST + 1))
    last = (token.double() * 0.3).exp()
    loss = sum(cost.sum() for cost in costs) + last.sum()
    return loss, lambda: weigh_to_go(draws, [costs[0], costs[1] + last])
