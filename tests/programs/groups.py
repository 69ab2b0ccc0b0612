"""Groups: a batch that is split, its groups compared within themselves, and put together again."""

import einops
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from programs.example import Weighed, const, example, weigh

LOGITS = (0.4, -0.6)
PRICES = const(0.7, -1.1, 0.4, 0.9)


def drawn(logits: Tensor) -> tuple[Distribution, Tensor, Tensor]:
    """Draw for two questions two answers each, one after the other, and what they are worth."""
    q = Bernoulli(logits=logits.repeat_interleave(2))
    z = q.sample()
    return q, z, (z - 0.3) ** 2 * PRICES


def of_groups(costs: Tensor) -> Tensor:
    """Return for each answer the costs of its group: [2, 2] to [4]."""
    return costs.sum(1, keepdim=True).expand(2, 2).reshape(4)


@example(LOGITS)
def groups_that_are_viewed(logits: Tensor) -> Weighed:
    q, z, worth = drawn(logits)
    return worth.view(2, 2).exp().sum(), lambda: weigh(q.log_prob(z), worth.exp())


@example(LOGITS)
def groups_with_their_mean_as_baseline(logits: Tensor) -> Weighed:
    q, z, worth = drawn(logits)
    grouped = worth.reshape(2, 2)
    costs = (grouped - grouped.mean(1, keepdim=True)).flatten().exp()
    return costs.sum(), lambda: weigh(q.log_prob(z), of_groups(costs.view(2, 2)))


@example(LOGITS)
def groups_that_leave_one_out(logits: Tensor) -> Weighed:
    q, z, worth = drawn(logits)
    grouped = worth.unflatten(0, (2, 2))
    costs = (grouped - (grouped.sum(1, keepdim=True) - grouped)).square()
    return costs.flatten().mean(), lambda: weigh(q.log_prob(z), of_groups(costs) / 4)


@example(LOGITS)
def groups_at_an_index(logits: Tensor) -> Weighed:
    q, z, worth = drawn(logits)
    grouped = worth[torch.arange(4).view(2, 2)]
    return (grouped**2).sum(1).exp().sum(), lambda: weigh(
        q.log_prob(z), of_groups((grouped**2).sum(1, keepdim=True).exp().expand(2, 2) / 2)
    )


@example(LOGITS)
def groups_that_einops_makes(logits: Tensor) -> Weighed:
    q, z, worth = drawn(logits)
    best = einops.reduce(worth, "(b g) -> b", "max", g=2)
    back = einops.repeat(best, "b -> (b g)", g=2)
    return (worth - back).exp().sum(), lambda: weigh(
        q.log_prob(z), of_groups((worth - back).exp().view(2, 2))
    )


@example(LOGITS)
def groups_in_a_loop(logits: Tensor) -> Weighed:
    q, z, worth = drawn(logits)
    spread = torch.stack([(group - group.mean()).square().sum() for group in worth.view(2, 2)])
    return spread.sum(), lambda: weigh(q.log_prob(z), spread.repeat_interleave(2))


@example(LOGITS)
def groups_across(logits: Tensor) -> Weighed:
    """Compare the first answers of both questions, and the second ones."""
    q, z, worth = drawn(logits)
    best = worth.view(2, 2).amax(0)
    return best.exp().sum(), lambda: weigh(q.log_prob(z), best.exp().repeat(2))


@example(LOGITS)
def groups_that_are_drawn_from(logits: Tensor) -> Weighed:
    q, z, worth = drawn(logits)
    later = Bernoulli(logits=worth.view(2, 2).sum(1) + logits)
    choice = later.sample()
    costs = (choice[:, None] - worth.view(2, 2)) ** 2
    return (
        costs.sum(),
        lambda: (
            weigh(q.log_prob(z), of_groups(costs)) + weigh(later.log_prob(choice), costs.sum(1))
        ),
    )


@example(LOGITS)
def samples_of_a_batch(logits: Tensor) -> Weighed:
    """Repeat a draw as samples of itself, in both orders, and judge each copy."""
    q = Bernoulli(logits=logits)
    z = q.sample()
    side, turn = z.repeat_interleave(2) * PRICES, z.repeat(2) * PRICES
    credit = side.exp().view(2, 2).sum(1) + turn.exp().view(2, 2).sum(0)
    return side.exp().sum() + turn.exp().sum(), lambda: weigh(q.log_prob(z), credit)
