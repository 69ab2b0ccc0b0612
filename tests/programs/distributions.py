"""Distributions other than Bernoulli, and events."""

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical, Independent, OneHotCategorical

from programs.batches import INPUTS, WEIGHTS
from programs.example import Weighed, const, example, weigh
from programs.sites import LOGITS, TARGET

TABLE = const(1.0, -0.5, 2.0)
BATCH_LOGITS = ((0.3, -0.8, 0.5), (0.1, 0.9, -0.4))


@example(LOGITS)
def categorical_with_logits(logits: Tensor) -> Weighed:
    q = Categorical(logits=logits)
    z = q.sample()
    return TABLE[z] ** 2, lambda: weigh(q.log_prob(z), TABLE[z] ** 2)


@example(BATCH_LOGITS, 0.4)
def categorical_with_probs(logits: Tensor, scale: Tensor) -> Weighed:
    q = Categorical(probs=logits.softmax(-1))
    z = q.sample()
    loss = ((scale * F.one_hot(z, 3).double() @ TABLE).exp()).mean()
    return loss, lambda: weigh(q.log_prob(z), (scale * TABLE[z]).exp() / 2)


@example(BATCH_LOGITS, ((1.0, 0.3, -0.2), (0.5, -1.5, 0.8)))
def categorical_gathers(logits: Tensor, table: Tensor) -> Weighed:
    q = Categorical(logits=logits)
    z = q.sample()
    loss = table.gather(1, z[:, None]).square().sum()
    return loss, lambda: weigh(q.log_prob(z), table[torch.arange(2), z] ** 2)


@example(BATCH_LOGITS, ((1.0, 0.3), (0.5, -1.5), (-0.7, 0.4)))
def categorical_embedded(logits: Tensor, table: Tensor) -> Weighed:
    q = Categorical(logits=logits)
    z = q.sample()
    loss = F.embedding(z, table).tanh().prod(-1).mean()
    return loss, lambda: weigh(q.log_prob(z), table[z].tanh().prod(-1) / 2)


@example(BATCH_LOGITS)
def one_hot(logits: Tensor) -> Weighed:
    q = OneHotCategorical(logits=logits)
    z = q.sample()
    cost = (z @ TABLE - 0.3) ** 2
    return cost.sum(), lambda: weigh(q.log_prob(z), cost)


@example(WEIGHTS)
def independent_bits(weight: Tensor) -> Weighed:
    """Grouping elements into an event is bookkeeping: they are as independent as before."""
    q = Bernoulli(logits=INPUTS @ weight)
    z = Independent(q, 1).sample()
    return ((z - INPUTS) ** 2).sum(), lambda: weigh(q.log_prob(z), (z - INPUTS) ** 2)


@example(BATCH_LOGITS)
def independent_over_the_batch(logits: Tensor) -> Weighed:
    q = Categorical(logits=logits)
    z = Independent(q, 1).sample()
    cost = (z.double() - 0.7) ** 2 * const(1.0, 3.0)
    return cost.mean(), lambda: weigh(q.log_prob(z), cost / 2)


@example((0.3, -0.8))
def counts(logits: Tensor) -> Weighed:
    q = Binomial(2, logits=logits)
    z = q.sample()
    return (z**2 - z * TARGET[:2]).sum(), lambda: weigh(q.log_prob(z), z**2 - z * TARGET[:2])
