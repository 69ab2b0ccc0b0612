"""One site: how far its elements are told apart."""

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import Weighed, const, example, site_credits_of, weigh

TARGET = const(0.45, 0.2, 0.7)
LOGITS = (0.3, -0.8, 0.5)
COUPLING = const((0.0, 1.3, 0.0), (0.0, 0.0, -0.7), (0.0, 0.0, 0.0))


@example(0.3)
def one_coin(logit: Tensor) -> Weighed:
    q = Bernoulli(logits=logit)
    z = q.sample()
    return (z - 0.45) ** 2, lambda: weigh(q.log_prob(z), (z - 0.45) ** 2)


@example(LOGITS)
def separable_bits(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    return ((z - TARGET) ** 2).sum(), lambda: weigh(q.log_prob(z), (z - TARGET) ** 2)


@site_credits_of(separable_bits)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    return weigh(q.log_prob(z), ((z - TARGET) ** 2).sum())


@example(LOGITS)
def coupled_bits(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    loss = ((z - TARGET) ** 2).sum() + z @ COUPLING @ z
    return loss, lambda: weigh(q.log_prob(z), (z - TARGET) ** 2 + z @ COUPLING @ z)


@example(LOGITS)
def linear_cost_of_bits(logits: Tensor) -> Weighed:
    """The sampled values themselves are the costs."""
    q = Bernoulli(logits=logits)
    z = q.sample()
    loss = 3.0 * z.sum() - (TARGET * z).mean()
    return loss, lambda: weigh(q.log_prob(z), 3.0 * z - TARGET * z / 3)


@example(-0.6)
def batch_of_one_coin(logit: Tensor) -> Weighed:
    q = Bernoulli(probs=logit.sigmoid())
    z = q.sample((3,))
    return ((z - TARGET) ** 2).sum(), lambda: weigh(q.log_prob(z), (z - TARGET) ** 2)


@example(LOGITS)
def rearranged_costs(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    cost = (z - TARGET) ** 2
    mask = torch.tensor([True, False, True])
    picked = cost[torch.tensor([0, 0, 2])].sum() + cost[mask].sum()
    counted = const(0.0, 0.1, 0.1) + 1 / 3 + const(3.0, 0.0, 2.0) / 7
    loss = 0.1 * cost[1:].sum() + cost.flip(0).mean() + picked / 7
    return loss, lambda: weigh(q.log_prob(z), counted * (z - TARGET) ** 2)


@example(LOGITS, (0.5, 1.5, -0.8), 0.7)
def learned_coefficients(logits: Tensor, scale: Tensor, width: Tensor) -> Weighed:
    """The coefficients of the costs are parameters: they have derivatives too."""
    q = Bernoulli(logits=logits)
    z = q.sample()
    cost = (z - TARGET) ** 2
    loss = (scale * cost).sum() / width + (cost * logits).sum().exp() - (1 - cost).mean() * width
    credit = scale * cost / width + cost * width / 3 + (cost * logits).sum().exp()
    return loss, lambda: weigh(q.log_prob(z), credit)
