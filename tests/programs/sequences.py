"""Sequences over a batch, drawn step by step in a loop: every step has its reward-to-go."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from programs.example import const, credits_of, weigh

FIRST = const(0.3, -0.5)  # for each example
SEEN = (const(0.2, 0.9), const(-0.4, 0.1), const(1.1, -0.7))


def hidden_markov(weights: Tensor) -> Tensor:
    """Draw the states of two sequences, with the cost of what is seen in each step."""
    z, loss = FIRST, torch.zeros((), dtype=torch.float64)
    for seen in SEEN:
        z = Bernoulli(logits=weights[0] * z + weights[1]).sample()
        loss = loss + ((z - seen) ** 2).sum() / 2
    return loss


@credits_of(hidden_markov, (0.8, -0.3))
def _(weights: Tensor) -> Tensor:
    z, scores, costs = FIRST, [], []
    for seen in SEEN:
        q = Bernoulli(logits=weights[0] * z + weights[1])
        z = q.sample()
        scores.append(q.log_prob(z))
        costs.append((z - seen) ** 2 / 2)
    return weigh(torch.stack(scores), torch.stack(costs).flip(0).cumsum(0).flip(0))


def recurrent_sampler(weights: Tensor) -> Tensor:
    """Draw from a state that is fed with the draws, the costs in a list that is summed at last."""
    state, costs = FIRST, []
    for seen in SEEN:
        z = Bernoulli(logits=state * weights[0]).sample()
        costs.append((z - seen).abs() * state)
        state = torch.tanh(state + weights[1] * z)
    return torch.stack(costs, 1).sum(1).mean()


@credits_of(recurrent_sampler, (0.8, -0.3))
def _(weights: Tensor) -> Tensor:
    state, scores, costs = FIRST, [], []
    for seen in SEEN:
        q = Bernoulli(logits=state * weights[0])
        z = q.sample()
        scores.append(q.log_prob(z))
        costs.append((z - seen).abs() * state / 2)
        state = torch.tanh(state + weights[1] * z)
    to_go = torch.stack(costs).flip(0).cumsum(0).flip(0)
    return torch.stack(costs).sum() + weigh(torch.stack(scores), to_go)


def episodes_that_end(weights: Tensor) -> Tensor:
    """Roll out two episodes that a mask ends, without a word to Python."""
    alive, loss = torch.ones(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for seen in SEEN:
        z = Bernoulli(logits=(weights[0] + FIRST * weights[1]) * alive).sample()
        alive = alive * z
        loss = loss - ((seen + z).exp() * alive).sum()
    return loss


@credits_of(episodes_that_end, (0.8, -0.3))
def _(weights: Tensor) -> Tensor:
    alive, scores, costs = torch.ones(2, dtype=torch.float64), [], []
    for seen in SEEN:
        q = Bernoulli(logits=(weights[0] + FIRST * weights[1]) * alive)
        z = q.sample()
        alive = alive * z
        scores.append(q.log_prob(z))
        costs.append(-(seen + z).exp() * alive)
    return weigh(torch.stack(scores), torch.stack(costs).flip(0).cumsum(0).flip(0))


def decoding(table: Tensor) -> Tensor:
    """Draw tokens, the logits of each being the row of the last in a table."""
    token = torch.tensor([0, 1])
    costs = []
    for step in range(2):
        token = Categorical(logits=table[token]).sample()
        costs.append((token.double() - step * 0.4) ** 2 * (FIRST + 1))
    return sum(cost.sum() for cost in costs) + (token.double() * 0.3).exp().sum()


@credits_of(decoding, ((0.4, -0.2), (0.1, 0.5)))
def _(table: Tensor) -> Tensor:
    token = torch.tensor([0, 1])
    scores, costs = [], []
    for step in range(2):
        q = Categorical(logits=table[token])
        token = q.sample()
        scores.append(q.log_prob(token))
        costs.append((token.double() - step * 0.4) ** 2 * (FIRST + 1))
    costs[-1] = costs[-1] + (token.double() * 0.3).exp()
    return weigh(torch.stack(scores), torch.stack(costs).flip(0).cumsum(0).flip(0))
