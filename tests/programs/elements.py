"""Single elements: read in loops, shifted, stacked, joined, merged, and written into buffers."""

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import Weighed, const, example, weigh

LOGITS = (0.4, -0.6, 0.2)
PRICES = const(0.7, -1.1, 0.4)


def shared(pairs: Tensor) -> Tensor:
    """Return what each of three elements pays for the pairs of neighbours that it is in."""
    return torch.stack([pairs[0], pairs[0] + pairs[1], pairs[1]])


@example(LOGITS)
def element_by_element(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    loss = torch.zeros((), dtype=torch.float64)
    for n, z_n in enumerate(z):
        loss = loss + (z_n - PRICES[n]) ** 2 * z[n].exp()
    return loss, lambda: weigh(q.log_prob(z), (z - PRICES) ** 2 * z.exp())


@example(LOGITS)
def differences(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    pairs = (z[1:] - 0.7 * z[:-1]).exp() * PRICES[1:]
    return pairs.sum(), lambda: weigh(q.log_prob(z), shared(pairs))


@example(LOGITS)
def neighbours_in_a_loop(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    loss = torch.stack([(z[n] * 0.4 - z[n - 1]).exp() for n in range(1, len(z))]).sum()
    return loss, lambda: weigh(q.log_prob(z), shared((z[1:] * 0.4 - z[:-1]).exp()))


@example(LOGITS)
def stack_that_is_read(logits: Tensor) -> Weighed:
    draws = torch.stack([Bernoulli(logits=logit).sample() for logit in logits])
    first, second = (draws[0] * 2).exp(), (draws[-1] - draws[1] * 0.3).exp()
    credit = torch.stack([first, second, second])
    return first + second, lambda: weigh(Bernoulli(logits=logits).log_prob(draws), credit)


@example(LOGITS)
def parameters_from_a_stack(logits: Tensor) -> Weighed:
    draws = torch.stack([Bernoulli(logits=logit).sample() for logit in logits[:2]])
    q = Bernoulli(logits=draws * logits[2])
    later = q.sample()
    ends = (later - PRICES[:2]) ** 2
    credit = ends + draws * const(0.3, 0.0)
    return (
        ((later - PRICES[:2]) ** 2).sum() + draws[0] * 0.3,
        lambda: (
            weigh(Bernoulli(logits=logits[:2]).log_prob(draws), credit)
            + weigh(q.log_prob(later), ends)
        ),
    )


@example(LOGITS)
def joined_sites(logits: Tensor) -> Weighed:
    a, b = (Bernoulli(logits=part).sample() for part in (logits[:2], logits[2:]))
    z = torch.cat([a, b])
    both = torch.cat([a, b]).exp()
    loss = (both * PRICES).sum() + (both[1:] * both[:-1]).sqrt().sum()
    credit = z.exp() * PRICES + shared((z[1:] + z[:-1]).div(2).exp())
    return loss, lambda: weigh(Bernoulli(logits=logits).log_prob(z), credit)


@example(LOGITS)
def merged_and_split(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits.expand(2, 3))
    z = q.sample()
    flat = z.reshape(6, 1) @ const((0.5, -0.3))
    credit = (z[..., None] * const(0.5, -0.3)).exp().sum(-1).sqrt()
    return flat.exp().view(2, 3, 2).sum(-1).sqrt().sum(), lambda: weigh(q.log_prob(z), credit)


@example(LOGITS)
def merged_cost(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits.expand(2, 3))
    z = q.sample()
    weights = const(1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    loss = ((z.flatten() - 0.3).exp() * weights).sum()
    return loss, lambda: weigh(q.log_prob(z), (z - 0.3).exp() * weights.reshape(2, 3))


@example(LOGITS)
def buffer_that_is_filled(logits: Tensor) -> Weighed:
    buffer, draws = torch.zeros(3, dtype=torch.float64), []
    for n in range(3):
        draws.append(Bernoulli(logits=logits[n]).sample())
        buffer[n] = draws[n] * (n + 1)
    return (buffer.exp() * PRICES).sum(), lambda: weigh(
        Bernoulli(logits=logits).log_prob(torch.stack(draws)), buffer.exp() * PRICES
    )


@example(LOGITS, ((0.3, -0.2), (0.8, 0.1)))
def table_that_is_read(logits: Tensor, table: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    k = z.long()
    loss = (table[k] * PRICES[:, None]).exp().sum() + table[torch.arange(3) % 2, k - k].sum()
    credit = (table[k] * PRICES[:, None]).exp().sum(1) + table[torch.arange(3) % 2, 0]
    return loss, lambda: weigh(q.log_prob(z), credit)
