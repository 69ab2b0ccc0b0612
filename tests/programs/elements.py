"""Single elements: read in loops, shifted, stacked, joined, merged, and written into buffers."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import const, credits_of, weigh

LOGITS = (0.4, -0.6, 0.2)
PRICES = const(0.7, -1.1, 0.4)


def element_by_element(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample()
    loss = torch.zeros((), dtype=torch.float64)
    for n, z_n in enumerate(z):
        loss = loss + (z_n - PRICES[n]) ** 2 * z[n].exp()
    return loss


@credits_of(element_by_element, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    return weigh(q.log_prob(z), (z - PRICES) ** 2 * z.exp())


def differences(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample()
    return ((z[1:] - 0.7 * z[:-1]).exp() * PRICES[1:]).sum()


@credits_of(differences, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    c = (z[1:] - 0.7 * z[:-1]).exp() * PRICES[1:]
    return weigh(q.log_prob(z), torch.stack([c[0], c[0] + c[1], c[1]]))


def neighbours_in_a_loop(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample()
    costs = [(z[n] * 0.4 - z[n - 1]).exp() for n in range(1, len(z))]
    return torch.stack(costs).sum()


@credits_of(neighbours_in_a_loop, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    c = (z[1:] * 0.4 - z[:-1]).exp()
    return weigh(q.log_prob(z), torch.stack([c[0], c[0] + c[1], c[1]]))


def stack_that_is_read(logits: Tensor) -> Tensor:
    draws = torch.stack([Bernoulli(logits=logit).sample() for logit in logits])
    return (draws[0] * 2).exp() + (draws[-1] - draws[1] * 0.3).exp()


@credits_of(stack_that_is_read, LOGITS)
def _(logits: Tensor) -> Tensor:
    qs = [Bernoulli(logits=logit) for logit in logits]
    a, b, c = (q.sample() for q in qs)
    first, second = (a * 2).exp(), (c - b * 0.3).exp()
    scores = torch.stack([q.log_prob(z) for q, z in zip(qs, (a, b, c), strict=True)])
    return weigh(scores, torch.stack([first, second, second]))


def parameters_from_a_stack(logits: Tensor) -> Tensor:
    draws = torch.stack([Bernoulli(logits=logit).sample() for logit in logits[:2]])
    later = Bernoulli(logits=draws * logits[2]).sample()
    return ((later - PRICES[:2]) ** 2).sum() + draws[0] * 0.3


@credits_of(parameters_from_a_stack, LOGITS)
def _(logits: Tensor) -> Tensor:
    qs = [Bernoulli(logits=logit) for logit in logits[:2]]
    a, b = (q.sample() for q in qs)
    q = Bernoulli(logits=torch.stack([a, b]) * logits[2])
    later = q.sample()
    ends = (later - PRICES[:2]) ** 2
    scores = torch.stack([qs[0].log_prob(a), qs[1].log_prob(b)])
    credit = torch.stack([ends[0] + a * 0.3, ends[1]])
    return weigh(scores, credit) + weigh(q.log_prob(later), ends)


def joined_sites(logits: Tensor) -> Tensor:
    a = Bernoulli(logits=logits[:2]).sample()
    b = Bernoulli(logits=logits[2:]).sample()
    both = torch.cat([a, b]).exp()
    return (both * PRICES).sum() + (both[1:] * both[:-1]).sqrt().sum()


@credits_of(joined_sites, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = torch.cat([Bernoulli(logits=part).sample() for part in (logits[:2], logits[2:])])
    own, pairs = z.exp() * PRICES, (z[1:] + z[:-1]).div(2).exp()
    shared = torch.stack([pairs[0], pairs[0] + pairs[1], pairs[1]])
    return weigh(q.log_prob(z), own + shared)


def merged_and_split(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits.expand(2, 3)).sample()
    flat = z.reshape(6, 1) @ const((0.5, -0.3))
    return flat.exp().view(2, 3, 2).sum(-1).sqrt().sum()


@credits_of(merged_and_split, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits.expand(2, 3))
    z = q.sample()
    cost = (z[..., None] * const(0.5, -0.3)).exp().sum(-1).sqrt()
    return weigh(q.log_prob(z), cost)


def merged_cost(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits.expand(2, 3)).sample()
    return ((z.flatten() - 0.3).exp() * const(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)).sum()


@credits_of(merged_cost, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits.expand(2, 3))
    z = q.sample()
    weights = const(1.0, 2.0, 3.0, 4.0, 5.0, 6.0).reshape(2, 3)
    return weigh(q.log_prob(z), (z - 0.3).exp() * weights)


def buffer_that_is_filled(logits: Tensor) -> Tensor:
    buffer = torch.zeros(3, dtype=torch.float64)
    for n in range(3):
        buffer[n] = Bernoulli(logits=logits[n]).sample() * (n + 1)
    return (buffer.exp() * PRICES).sum()


@credits_of(buffer_that_is_filled, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = torch.stack([Bernoulli(logits=logit).sample() for logit in logits])
    return weigh(q.log_prob(z), (z * const(1.0, 2.0, 3.0)).exp() * PRICES)


def table_that_is_read(logits: Tensor, table: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample().long()
    return (table[z] * PRICES[:, None]).exp().sum() + table[torch.arange(3) % 2, z - z].sum()


@credits_of(table_that_is_read, LOGITS, ((0.3, -0.2), (0.8, 0.1)))
def _(logits: Tensor, table: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    cost = (table[z.long()] * PRICES[:, None]).exp().sum(1)
    fixed = table[torch.arange(3) % 2, 0]
    return cost.sum() + fixed.sum() + weigh(q.log_prob(z), cost + fixed)
