"""Distributions other than Bernoulli, and events."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli, Binomial, Categorical, Independent, OneHotCategorical

from programs.batches import INPUTS, WEIGHTS
from programs.example import const, credits_of, weigh
from programs.sites import LOGITS, TARGET

TABLE = const(1.0, -0.5, 2.0)


def categorical_with_logits(logits: Tensor) -> Tensor:
    z = Categorical(logits=logits).sample()
    return TABLE[z] ** 2


@credits_of(categorical_with_logits, LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Categorical(logits=logits)
    z = q.sample()
    return weigh(q.log_prob(z), TABLE[z] ** 2)


BATCH_LOGITS = ((0.3, -0.8, 0.5), (0.1, 0.9, -0.4))


def categorical_with_probs(logits: Tensor, scale: Tensor) -> Tensor:
    z = Categorical(probs=logits.softmax(-1)).sample()
    chosen = F.one_hot(z, 3).double()
    return ((scale * chosen @ TABLE).exp()).mean()


@credits_of(categorical_with_probs, BATCH_LOGITS, 0.4)
def _(logits: Tensor, scale: Tensor) -> Tensor:
    q = Categorical(logits=logits)
    z = q.sample()
    cost = (scale * TABLE[z]).exp() / 2
    return cost.sum() + weigh(q.log_prob(z), cost)


def categorical_gathers(logits: Tensor, table: Tensor) -> Tensor:
    z = Categorical(logits=logits).sample()
    return table.gather(1, z[:, None]).square().sum()


@credits_of(categorical_gathers, BATCH_LOGITS, ((1.0, 0.3, -0.2), (0.5, -1.5, 0.8)))
def _(logits: Tensor, table: Tensor) -> Tensor:
    q = Categorical(logits=logits)
    z = q.sample()
    cost = table[torch.arange(2), z] ** 2
    return cost.sum() + weigh(q.log_prob(z), cost)


def categorical_embedded(logits: Tensor, table: Tensor) -> Tensor:
    z = Categorical(logits=logits).sample()
    return F.embedding(z, table).tanh().prod(-1).mean()


@credits_of(categorical_embedded, BATCH_LOGITS, ((1.0, 0.3), (0.5, -1.5), (-0.7, 0.4)))
def _(logits: Tensor, table: Tensor) -> Tensor:
    q = Categorical(logits=logits)
    z = q.sample()
    cost = table[z].tanh().prod(-1) / 2
    return cost.sum() + weigh(q.log_prob(z), cost)


def one_hot(logits: Tensor) -> Tensor:
    z = OneHotCategorical(logits=logits).sample()
    return ((z @ TABLE - 0.3) ** 2).sum()


@credits_of(one_hot, BATCH_LOGITS)
def _(logits: Tensor) -> Tensor:
    q = OneHotCategorical(logits=logits)
    z = q.sample()
    return weigh(q.log_prob(z), (z @ TABLE - 0.3) ** 2)


def independent_bits(weight: Tensor) -> Tensor:
    """Grouping elements into an event is bookkeeping: they are as independent as before."""
    z = Independent(Bernoulli(logits=INPUTS @ weight), 1).sample()
    return ((z - INPUTS) ** 2).sum()


@credits_of(independent_bits, WEIGHTS)
def _(weight: Tensor) -> Tensor:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    return weigh(q.log_prob(z), (z - INPUTS) ** 2)


def independent_over_the_batch(logits: Tensor) -> Tensor:
    z = Independent(Categorical(logits=logits), 1).sample()
    return ((z.double() - 0.7) ** 2 * const(1.0, 3.0)).mean()


@credits_of(independent_over_the_batch, BATCH_LOGITS)
def _(logits: Tensor) -> Tensor:
    q = Categorical(logits=logits)
    z = q.sample()
    return weigh(q.log_prob(z), (z.double() - 0.7) ** 2 * const(1.0, 3.0) / 2)


def counts(logits: Tensor) -> Tensor:
    z = Binomial(2, logits=logits).sample()
    return (z**2 - z * TARGET[:2]).sum()


@credits_of(counts, (0.3, -0.8))
def _(logits: Tensor) -> Tensor:
    q = Binomial(2, logits=logits)
    z = q.sample()
    return weigh(q.log_prob(z), z**2 - z * TARGET[:2])
