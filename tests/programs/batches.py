"""Batches: the parameters are shared, the draws of different examples never meet."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import const, credits_of, site_credits_of, weigh
from programs.sites import LOGITS, TARGET

X = const(-1.0, 0.5, 2.0)


def batch_mean(intercept: Tensor, slope: Tensor) -> Tensor:
    z = Bernoulli(logits=intercept + slope * X).sample()
    return (slope * (z - TARGET) ** 2).mean()


@credits_of(batch_mean, 0.2, 0.7)
def _(intercept: Tensor, slope: Tensor) -> Tensor:
    q = Bernoulli(logits=intercept + slope * X)
    z = q.sample()
    cost = slope * (z - TARGET) ** 2 / 3
    return cost.sum() + weigh(q.log_prob(z), cost)


def weighted_mean(intercept: Tensor, slope: Tensor) -> Tensor:
    weights = const(0.5, 2.0, 1.0)
    z = Bernoulli(logits=intercept + slope * X).sample()
    return (weights * torch.exp(slope * z)).sum() / weights.sum()


@credits_of(weighted_mean, 0.2, 0.7)
def _(intercept: Tensor, slope: Tensor) -> Tensor:
    q = Bernoulli(logits=intercept + slope * X)
    z = q.sample()
    cost = const(0.5, 2.0, 1.0) / 3.5 * torch.exp(slope * z)
    return cost.sum() + weigh(q.log_prob(z), cost)


INPUTS = const((1.0, -0.5), (0.3, 0.8))
LABELS = const(0.0, 1.0)
WEIGHTS = ((0.6, -0.4), (0.9, 0.2))


def two_layers(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    """Elements mix across features, never across the batch."""
    h = Bernoulli(logits=INPUTS @ first.t()).sample()
    y = Bernoulli(logits=F.linear(h, second, bias)).sample()
    return ((y.squeeze(-1) - LABELS) ** 2).mean() + 0.1 * h.sum()


@credits_of(two_layers, WEIGHTS, ((0.8, -1.1),), (0.3,))
def _(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    q_h = Bernoulli(logits=INPUTS @ first.t())
    h = q_h.sample()
    q_y = Bernoulli(logits=F.linear(h, second, bias))
    y = q_y.sample()
    row = (y - LABELS[:, None]) ** 2 / 2
    return weigh(q_h.log_prob(h), 0.1 * h + row) + weigh(q_y.log_prob(y), row)


@site_credits_of(two_layers)
def _(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    q_h = Bernoulli(logits=INPUTS @ first.t())
    h = q_h.sample()
    q_y = Bernoulli(logits=F.linear(h, second, bias))
    y = q_y.sample()
    error = ((y - LABELS[:, None]) ** 2).mean()
    return weigh(q_h.log_prob(h), 0.1 * h.sum() + error) + weigh(q_y.log_prob(y), error)


def softmax_layer(weight: Tensor, readout: Tensor) -> Tensor:
    z = Bernoulli(logits=INPUTS @ weight).sample()
    p = torch.softmax(z @ readout, dim=-1)
    return -(p[:, 0]).log().mean()


@credits_of(softmax_layer, WEIGHTS, ((0.5, -0.3), (0.2, 1.0)))
def _(weight: Tensor, readout: Tensor) -> Tensor:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    row = -torch.softmax(z @ readout, dim=-1)[:, 0].log() / 2
    return row.sum() + weigh(q.log_prob(z), row[:, None])


def sum_over_features(weight: Tensor) -> Tensor:
    z = Bernoulli(logits=INPUTS @ weight).sample()
    per_example = torch.exp(0.5 * z.sum(dim=1))
    return (per_example * const(1.0, -2.0)).sum()


@credits_of(sum_over_features, WEIGHTS)
def _(weight: Tensor) -> Tensor:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    row = torch.exp(0.5 * z.sum(dim=1)) * const(1.0, -2.0)
    return weigh(q.log_prob(z), row[:, None])


def sum_over_the_batch(weight: Tensor) -> Tensor:
    """Now the features stay apart and the examples mix."""
    z = Bernoulli(logits=INPUTS @ weight).sample()
    return (z.mean(0) ** 2).sum()


@credits_of(sum_over_the_batch, WEIGHTS)
def _(weight: Tensor) -> Tensor:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    return weigh(q.log_prob(z), z.mean(0) ** 2)


def slices_of_features(weight: Tensor) -> Tensor:
    z = Bernoulli(logits=INPUTS @ weight).sample()
    left, right = z[:, 0], z[:, 1:].squeeze(1)
    return (left * right + 0.3 * left.exp()).mean()


@credits_of(slices_of_features, WEIGHTS)
def _(weight: Tensor) -> Tensor:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    both, left = z[:, 0] * z[:, 1] / 2, 0.3 * z[:, 0].exp() / 2
    return weigh(q.log_prob(z), torch.stack([both + left, both], 1))


def reshapes_that_keep_the_batch(weight: Tensor) -> Tensor:
    z = Bernoulli(logits=INPUTS @ weight).sample()
    h = z.unsqueeze(1).reshape(2, 2, 1).transpose(1, 2).flatten(1)
    return torch.einsum("bf,bf->b", h, h.flip(1)).view(2, 1).sum()


@credits_of(reshapes_that_keep_the_batch, WEIGHTS)
def _(weight: Tensor) -> Tensor:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    return weigh(q.log_prob(z), 2 * (z[:, 0] * z[:, 1])[:, None])


def batched_matmul(weight: Tensor, mixing: Tensor) -> Tensor:
    z = Bernoulli(logits=INPUTS @ weight).sample()
    h = torch.bmm(z[:, None, :], mixing.expand(2, 2, 2)).tanh()
    return h.sum((1, 2)).square().mean()


@credits_of(batched_matmul, WEIGHTS, ((0.5, -0.3), (0.2, 1.0)))
def _(weight: Tensor, mixing: Tensor) -> Tensor:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    row = (z @ mixing).tanh().sum(1) ** 2 / 2
    return row.sum() + weigh(q.log_prob(z), row[:, None])


def concatenated_sites(logits: Tensor, others: Tensor) -> Tensor:
    a = Bernoulli(logits=logits).sample()
    b = Bernoulli(logits=others).sample()
    h = torch.cat([a, b], dim=1)
    return ((h.sum(1) - 1.2) ** 2).sum()


@credits_of(concatenated_sites, ((0.1, -0.7), (0.4, 0.9)), ((-0.2,), (0.6,)))
def _(logits: Tensor, others: Tensor) -> Tensor:
    q_a, q_b = Bernoulli(logits=logits), Bernoulli(logits=others)
    a, b = q_a.sample(), q_b.sample()
    row = (a.sum(1, keepdim=True) + b - 1.2) ** 2
    return weigh(q_a.log_prob(a), row) + weigh(q_b.log_prob(b), row)


def stacked_sites(logits: Tensor, others: Tensor) -> Tensor:
    a = Bernoulli(logits=logits).sample()
    b = Bernoulli(logits=others).sample()
    h = torch.stack([a, b], dim=-1)
    return (h @ const(1.0, -2.0)).abs().sum()


@credits_of(stacked_sites, LOGITS, (0.4, -0.3, -1.0))
def _(logits: Tensor, others: Tensor) -> Tensor:
    q_a, q_b = Bernoulli(logits=logits), Bernoulli(logits=others)
    a, b = q_a.sample(), q_b.sample()
    cost = (a - 2.0 * b).abs()
    return weigh(q_a.log_prob(a), cost) + weigh(q_b.log_prob(b), cost)


def global_site_over_a_batch(logit: Tensor, intercept: Tensor, shift: Tensor) -> Tensor:
    g = Bernoulli(logits=logit).sample()
    z = Bernoulli(logits=intercept + shift * g.expand(3)).sample()
    return ((z + g - TARGET) ** 2).mean()


@credits_of(global_site_over_a_batch, 0.4, -0.3, 0.9)
def _(logit: Tensor, intercept: Tensor, shift: Tensor) -> Tensor:
    q_g = Bernoulli(logits=logit)
    g = q_g.sample()
    q_z = Bernoulli(logits=(intercept + shift * g).expand(3))
    z = q_z.sample()
    cost = (z + g - TARGET) ** 2 / 3
    return weigh(q_g.log_prob(g), cost.sum()) + weigh(q_z.log_prob(z), cost)


def chosen_by_where(logits: Tensor, low: Tensor, high: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample()
    return torch.where(z > 0.5, high * X, low).square().sum()


@credits_of(chosen_by_where, LOGITS, -0.4, 1.3)
def _(logits: Tensor, low: Tensor, high: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    cost = (z * high * X + (1 - z) * low) ** 2
    return cost.sum() + weigh(q.log_prob(z), cost)
