"""One site: how far its elements are told apart."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import const, credits_of, site_credits_of, weigh


def one_coin(logit: Tensor) -> Tensor:
    z = Bernoulli(logits=logit).sample()
    return (z - 0.45) ** 2


@credits_of(one_coin, 0.3)
def _(logit: Tensor) -> Tensor:
    q = Bernoulli(logits=logit)
    z = q.sample()
    cost = (z - 0.45) ** 2
    return cost + weigh(q.log_prob(z), cost)


TARGET = const(0.45, 0.2, 0.7)
LOGITS = (0.3, -0.8, 0.5)


def separable_bits(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample()
    return ((z - TARGET) ** 2).sum()


@credits_of(separable_bits, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    cost = (z - TARGET) ** 2
    return weigh(q.log_prob(z), cost)


@site_credits_of(separable_bits)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    return weigh(q.log_prob(z), ((z - TARGET) ** 2).sum())


COUPLING = const((0.0, 1.3, 0.0), (0.0, 0.0, -0.7), (0.0, 0.0, 0.0))


def coupled_bits(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample()
    return ((z - TARGET) ** 2).sum() + z @ COUPLING @ z


@credits_of(coupled_bits, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    own = (z - TARGET) ** 2
    return weigh(q.log_prob(z), own + z @ COUPLING @ z)


def linear_cost_of_bits(logits: Tensor) -> Tensor:
    """The sampled values themselves are the costs."""
    z = Bernoulli(logits=logits).sample()
    return 3.0 * z.sum() - (TARGET * z).mean()


@credits_of(linear_cost_of_bits, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    return weigh(q.log_prob(z), 3.0 * z - TARGET * z / 3)


def batch_of_one_coin(logit: Tensor) -> Tensor:
    z = Bernoulli(probs=logit.sigmoid()).sample((3,))
    return ((z - TARGET) ** 2).sum()


@credits_of(batch_of_one_coin, -0.6)
def _(logit: Tensor) -> Tensor:
    q = Bernoulli(logits=logit)
    z = q.sample((3,))
    return weigh(q.log_prob(z), (z - TARGET) ** 2)


def rearranged_costs(logits: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample()
    cost = (z - TARGET) ** 2
    mask = torch.tensor([True, False, True])
    picked = cost[torch.tensor([0, 0, 2])].sum() + cost[mask].sum()
    return 0.1 * cost[1:].sum() + cost.flip(0).mean() + picked / 7


@credits_of(rearranged_costs, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    counted = const(0.0, 0.1, 0.1) + 1 / 3 + const(3.0, 0.0, 2.0) / 7
    return weigh(q.log_prob(z), counted * (z - TARGET) ** 2)


def learned_coefficients(logits: Tensor, scale: Tensor, width: Tensor) -> Tensor:
    """The coefficients of the costs are parameters: they have derivatives of their own."""
    z = Bernoulli(logits=logits).sample()
    cost = (z - TARGET) ** 2
    return (scale * cost).sum() / width + (cost * logits).sum().exp() - (1 - cost).mean() * width


@credits_of(learned_coefficients, LOGITS, (0.5, 1.5, -0.8), 0.7)
def _(logits: Tensor, scale: Tensor, width: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    cost = (z - TARGET) ** 2
    apart = scale * cost / width + cost * width / 3
    bound = (cost * logits).sum().exp()
    return apart.sum() + bound - width + weigh(q.log_prob(z), apart + bound)
