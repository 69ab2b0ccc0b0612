"""Batches: the parameters are shared, the draws of different examples never meet."""

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import Weighed, const, example, site_credits_of, weigh
from programs.sites import LOGITS, TARGET

X = const(-1.0, 0.5, 2.0)
INPUTS = const((1.0, -0.5), (0.3, 0.8))
LABELS = const(0.0, 1.0)
WEIGHTS = ((0.6, -0.4), (0.9, 0.2))


@example(0.2, 0.7)
def batch_mean(intercept: Tensor, slope: Tensor) -> Weighed:
    q = Bernoulli(logits=intercept + slope * X)
    z = q.sample()
    cost = slope * (z - TARGET) ** 2
    return cost.mean(), lambda: weigh(q.log_prob(z), cost / 3)


@example(0.2, 0.7)
def weighted_mean(intercept: Tensor, slope: Tensor) -> Weighed:
    weights = const(0.5, 2.0, 1.0)
    q = Bernoulli(logits=intercept + slope * X)
    z = q.sample()
    cost = weights * torch.exp(slope * z)
    return cost.sum() / weights.sum(), lambda: weigh(q.log_prob(z), cost / 3.5)


@example(WEIGHTS, ((0.8, -1.1),), (0.3,))
def two_layers(first: Tensor, second: Tensor, bias: Tensor) -> Weighed:
    """Elements mix across features, never across the batch."""
    q_h = Bernoulli(logits=INPUTS @ first.t())
    h = q_h.sample()
    q_y = Bernoulli(logits=F.linear(h, second, bias))
    y = q_y.sample()
    row = (y - LABELS[:, None]) ** 2 / 2
    return (
        ((y.squeeze(-1) - LABELS) ** 2).mean() + 0.1 * h.sum(),
        lambda: weigh(q_h.log_prob(h), 0.1 * h + row) + weigh(q_y.log_prob(y), row),
    )


@site_credits_of(two_layers)
def _(first: Tensor, second: Tensor, bias: Tensor) -> Tensor:
    q_h = Bernoulli(logits=INPUTS @ first.t())
    h = q_h.sample()
    q_y = Bernoulli(logits=F.linear(h, second, bias))
    y = q_y.sample()
    error = ((y - LABELS[:, None]) ** 2).mean()
    return weigh(q_h.log_prob(h), 0.1 * h.sum() + error) + weigh(q_y.log_prob(y), error)


@example(WEIGHTS, ((0.5, -0.3), (0.2, 1.0)))
def softmax_layer(weight: Tensor, readout: Tensor) -> Weighed:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    row = -torch.softmax(z @ readout, dim=-1)[:, 0].log()
    return row.mean(), lambda: weigh(q.log_prob(z), row[:, None] / 2)


@example(WEIGHTS)
def sum_over_features(weight: Tensor) -> Weighed:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    row = torch.exp(0.5 * z.sum(dim=1)) * const(1.0, -2.0)
    return row.sum(), lambda: weigh(q.log_prob(z), row[:, None])


@example(WEIGHTS)
def sum_over_the_batch(weight: Tensor) -> Weighed:
    """Now the features stay apart and the examples mix."""
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    return (z.mean(0) ** 2).sum(), lambda: weigh(q.log_prob(z), z.mean(0) ** 2)


@example(WEIGHTS)
def slices_of_features(weight: Tensor) -> Weighed:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    left, right = z[:, 0], z[:, 1:].squeeze(1)
    both, own = z[:, 0] * z[:, 1] / 2, 0.3 * z[:, 0].exp() / 2
    credit = torch.stack([both + own, both], 1)
    return (left * right + 0.3 * left.exp()).mean(), lambda: weigh(q.log_prob(z), credit)


@example(WEIGHTS)
def reshapes_that_keep_the_batch(weight: Tensor) -> Weighed:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    h = z.unsqueeze(1).reshape(2, 2, 1).transpose(1, 2).flatten(1)
    loss = torch.einsum("bf,bf->b", h, h.flip(1)).view(2, 1).sum()
    return loss, lambda: weigh(q.log_prob(z), 2 * (z[:, 0] * z[:, 1])[:, None])


@example(WEIGHTS, ((0.5, -0.3), (0.2, 1.0)))
def batched_matmul(weight: Tensor, mixing: Tensor) -> Weighed:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    h = torch.bmm(z[:, None, :], mixing.expand(2, 2, 2)).tanh()
    row = (z @ mixing).tanh().sum(1) ** 2 / 2
    return h.sum((1, 2)).square().mean(), lambda: weigh(q.log_prob(z), row[:, None])


@example(((0.1, -0.7), (0.4, 0.9)), ((-0.2,), (0.6,)))
def concatenated_sites(logits: Tensor, others: Tensor) -> Weighed:
    q_a, q_b = Bernoulli(logits=logits), Bernoulli(logits=others)
    a, b = q_a.sample(), q_b.sample()
    h = torch.cat([a, b], dim=1)
    row = (a.sum(1, keepdim=True) + b - 1.2) ** 2
    return (
        (h.sum(1) - 1.2) ** 2
    ).sum(), lambda: weigh(q_a.log_prob(a), row) + weigh(q_b.log_prob(b), row)


@example(LOGITS, (0.4, -0.3, -1.0))
def stacked_sites(logits: Tensor, others: Tensor) -> Weighed:
    q_a, q_b = Bernoulli(logits=logits), Bernoulli(logits=others)
    a, b = q_a.sample(), q_b.sample()
    h = torch.stack([a, b], dim=-1)
    cost = (a - 2.0 * b).abs()
    return (
        h @ const(1.0, -2.0)
    ).abs().sum(), lambda: weigh(q_a.log_prob(a), cost) + weigh(q_b.log_prob(b), cost)


@example(0.4, -0.3, 0.9)
def global_site_over_a_batch(logit: Tensor, intercept: Tensor, shift: Tensor) -> Weighed:
    q_g = Bernoulli(logits=logit)
    g = q_g.sample()
    q_z = Bernoulli(logits=intercept + shift * g.expand(3))
    z = q_z.sample()
    cost = (z + g - TARGET) ** 2
    return (
        cost.mean(),
        lambda: weigh(q_g.log_prob(g), cost.sum() / 3) + weigh(q_z.log_prob(z), cost / 3),
    )


@example(LOGITS, -0.4, 1.3)
def chosen_by_where(logits: Tensor, low: Tensor, high: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    loss = torch.where(z > 0.5, high * X, low).square().sum()
    return loss, lambda: weigh(q.log_prob(z), (z * high * X + (1 - z) * low) ** 2)
