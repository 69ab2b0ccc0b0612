"""Buffers that are written through views of them: rollouts, caches of keys and values."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import Weighed, const, example, weigh

LOGITS = (0.4, -0.6)
PRICES = const((0.7, -1.1), (0.4, 0.9))


def rollout(
    logits: Tensor, write: Callable[[Tensor, int, Tensor], object], rows: int = 2
) -> Weighed:
    """Draw a batch of two at each time, which the batch goes on from, and store what it pays."""
    buffer, draws = torch.zeros(rows, 2, dtype=torch.float64), []
    state = torch.zeros(2, dtype=torch.float64)
    for t in range(2):
        q = Bernoulli(logits=logits + state * 0.5)
        z = q.sample()
        draws.append((q, z))
        state = state * 0.3 + z
        write(buffer, t, (state - 0.4) ** 2 * PRICES[t])
    paid = buffer[:2]
    to_go = paid.flip(0).cumsum(0).flip(0)
    return buffer.sum(), lambda: weigh(torch.stack([q.log_prob(z) for q, z in draws]), to_go)


@example(LOGITS)
def rows_that_are_copied_into(logits: Tensor) -> Weighed:
    return rollout(logits, lambda b, t, r: b[t].copy_(r))


@example(LOGITS)
def rows_that_are_added_to(logits: Tensor) -> Weighed:
    def write(b: Tensor, t: int, r: Tensor) -> None:
        b[t] += r

    return rollout(logits, write, rows=3)


@example(LOGITS)
def columns_that_are_added_to(logits: Tensor) -> Weighed:
    def write(b: Tensor, t: int, r: Tensor) -> None:
        b.T[:, t] += r

    return rollout(logits, write)


@example(LOGITS)
def rows_that_a_loop_walks(logits: Tensor) -> Weighed:
    def write(b: Tensor, t: int, r: Tensor) -> None:
        for n, row in enumerate(b):
            if n == t:
                row += r

    return rollout(logits, write)


@example(LOGITS)
def rows_that_are_the_output(logits: Tensor) -> Weighed:
    return rollout(logits, lambda b, t, r: torch.mul(r, 1.0, out=b[t]))


@example(LOGITS)
def rows_at_an_index(logits: Tensor) -> Weighed:
    return rollout(logits, lambda b, t, r: b.index_copy_(0, torch.tensor([t]), r[None]))


@example(LOGITS)
def rows_at_a_number_in_a_tensor(logits: Tensor) -> Weighed:
    def write(b: Tensor, t: int, r: Tensor) -> None:
        b[torch.tensor(t)] = r

    return rollout(logits, write)


@example(LOGITS)
def rows_of_a_flat_buffer(logits: Tensor) -> Weighed:
    def write(b: Tensor, t: int, r: Tensor) -> None:
        b.view(-1)[2 * t : 2 * t + 2] = r

    return rollout(logits, write)


@example(LOGITS)
def rows_that_an_older_view_sees(logits: Tensor) -> Weighed:
    buffer = torch.zeros(2, 2, dtype=torch.float64)
    first, second = buffer
    z = Bernoulli(logits=logits).sample()
    buffer[0].add_(z * PRICES[0])
    later = Bernoulli(logits=logits + first).sample()
    buffer[1].add_(later * PRICES[1])
    costs = (second - 0.3) ** 2 + first
    q, p = Bernoulli(logits=logits), Bernoulli(logits=logits + z * PRICES[0])
    return (
        costs.sum(),
        lambda: weigh(q.log_prob(z), costs) + weigh(p.log_prob(later), (second - 0.3) ** 2),
    )


@example(LOGITS)
def cache_of_keys(logits: Tensor) -> Weighed:
    """Attend at each time to the keys of all times before, sequence by sequence."""
    keys = torch.zeros(2, 1, 3, 1, dtype=torch.float64)  # batch, heads, time, width
    scores, costs = [], []
    z = torch.zeros(2, dtype=torch.float64)
    for t in range(2):
        keys.transpose(1, 2)[:, t].copy_((z + 0.1 * t).view(2, 1, 1))
        seen = keys[:, 0, : t + 1, 0]
        weights = (seen * 0.7).softmax(1)
        q = Bernoulli(logits=logits + (weights * seen).sum(1))
        z = q.sample()
        scores.append(q.log_prob(z))
        costs.append((z - 0.3) ** 2 * PRICES[t])
    to_go = torch.stack(costs).flip(0).cumsum(0).flip(0)
    return torch.stack(costs).sum(), lambda: weigh(torch.stack(scores), to_go)
