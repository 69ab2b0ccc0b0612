"""Variational bounds, in which the log-probability of a draw is itself a cost."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import math

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal, kl_divergence

from programs.batches import INPUTS, LABELS, WEIGHTS
from programs.distributions import BATCH_LOGITS
from programs.example import Weighed, const, credits_of, example, weigh


def elbo(logits: Tensor, prior: Tensor, readout: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    log_prior = Bernoulli(logits=prior).log_prob(z)
    log_likelihood = Bernoulli(logits=readout @ z).log_prob(LABELS)
    return q.log_prob(z).sum() - log_prior.sum() - log_likelihood.sum()


ELBO_VALUES = ((0.3, -0.8), (0.1, 0.5), ((0.7, -0.2), (-0.9, 0.4)))


@credits_of(elbo, *ELBO_VALUES, scores_are_costs=True)
def _(logits: Tensor, prior: Tensor, readout: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    log_q, log_prior = q.log_prob(z), Bernoulli(logits=prior).log_prob(z)
    log_likelihood = Bernoulli(logits=readout @ z).log_prob(LABELS).sum()
    # The score has mean zero: log_q counts as a cost, and is not differentiated.
    return -log_prior.sum() - log_likelihood + weigh(log_q, log_q - log_prior - log_likelihood)


def elbo_of_a_batch(weight: Tensor, readout: Tensor) -> Tensor:
    """The guide is an event; so is what is observed."""
    q = Independent(Bernoulli(logits=INPUTS @ weight), 1)
    z = q.sample()
    prior = Independent(Bernoulli(logits=torch.zeros_like(z)), 1)
    seen = Independent(Bernoulli(logits=z @ readout), 1)
    return (q.log_prob(z) - prior.log_prob(z) - seen.log_prob(const((0, 1), (1, 1)))).mean()


@credits_of(elbo_of_a_batch, WEIGHTS, ((0.7, -0.2), (-0.9, 0.4)), scores_are_costs=True)
def _(weight: Tensor, readout: Tensor) -> Tensor:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    log_q = q.log_prob(z)
    seen = Bernoulli(logits=z @ readout).log_prob(const((0, 1), (1, 1))).sum(1, keepdim=True)
    # The sum over the event is linear: each element of the guide keeps its own log_q.
    credit = (log_q + math.log(2.0) - seen) / 2
    return -seen.sum() / 2 + weigh(log_q, credit)


@example((0.6, -0.4), 1.3)
def elbo_of_many_particles(weight: Tensor, readout: Tensor) -> Weighed:
    """Nonlinear in the particles, linear in the examples; the densities are inside one term."""
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample((2,))
    log_ratio = Bernoulli(logits=readout * z).log_prob(LABELS) - q.log_prob(z)
    loss = -(torch.logsumexp(log_ratio, dim=0) - math.log(2.0)).mean()
    return loss, lambda: weigh(q.log_prob(z), -torch.logsumexp(log_ratio, dim=0) / 2)


def elbo_of_a_categorical(logits: Tensor, table: Tensor) -> Tensor:
    q = Categorical(logits=logits)
    z = q.sample()
    fit = F.cross_entropy(F.embedding(z, table), torch.tensor([1, 0]), reduction="none")
    return (fit + 0.5 * q.log_prob(z)).mean() - 0.1 * q.entropy().sum()


@credits_of(
    elbo_of_a_categorical,
    BATCH_LOGITS,
    ((1.0, 0.3), (0.5, -1.5), (-0.7, 0.4)),
    scores_are_costs=True,
)
def _(logits: Tensor, table: Tensor) -> Tensor:
    q = Categorical(logits=logits)
    z = q.sample()
    log_q = q.log_prob(z)
    fit = -table[z].log_softmax(-1)[torch.arange(2), torch.tensor([1, 0])] / 2
    return fit.sum() - 0.1 * q.entropy().sum() + weigh(log_q, fit + 0.25 * log_q)


def elbo_of_two_layers(logits: Tensor, slope: Tensor) -> Tensor:
    q_a = Bernoulli(logits=logits)
    a = q_a.sample()
    q_b = Bernoulli(logits=slope * a)
    b = q_b.sample()
    log_p = Bernoulli(logits=const(0.2, -0.1)).log_prob(a) + Bernoulli(logits=a - b).log_prob(b)
    return (q_a.log_prob(a) + q_b.log_prob(b) - log_p).sum()


@credits_of(elbo_of_two_layers, (0.3, -0.8), 0.7, scores_are_costs=True)
def _(logits: Tensor, slope: Tensor) -> Tensor:
    q_a = Bernoulli(logits=logits)
    a = q_a.sample()
    q_b = Bernoulli(logits=slope * a)
    b = q_b.sample()
    log_a, log_b = q_a.log_prob(a), q_b.log_prob(b)
    prior_a = Bernoulli(logits=const(0.2, -0.1)).log_prob(a)
    prior_b = Bernoulli(logits=a - b).log_prob(b)
    return weigh(log_a, log_a + log_b - prior_a - prior_b) + weigh(log_b, log_b - prior_b)


def entropy_bonus(logits: Tensor, temperature: Tensor) -> Tensor:
    """The coefficient of the log-probability is learned too."""
    q = Bernoulli(logits=logits)
    z = q.sample()
    log_q = q.log_prob(z)
    return ((z - LABELS) ** 2 + temperature * log_q).sum() - log_q[0] / temperature


@credits_of(entropy_bonus, (0.3, -0.8), 0.7, scores_are_costs=True)
def _(logits: Tensor, temperature: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    log_q = q.log_prob(z)
    bonus = (temperature - const(1.0, 0.0) / temperature) * log_q.detach()
    return bonus.sum() + weigh(log_q, (z - LABELS) ** 2 + bonus)


@example((0.3, -0.8), (0.1, 0.5))
def elbo_of_a_twin(logits: Tensor, prior: Tensor) -> Weighed:
    """The density is that of another distribution object: an ordinary cost, differentiated."""
    q = Bernoulli(logits=logits)
    z = q.sample()
    cost = Bernoulli(logits=logits.clone()).log_prob(z) - Bernoulli(logits=prior).log_prob(z)
    return cost.sum(), lambda: weigh(q.log_prob(z), cost)


@example((0.3, -0.8), 1.2)
def elbo_with_exact_divergence(logits: Tensor, slope: Tensor) -> Weighed:
    """The divergence of the second layer depends on the first draw only."""
    q = Bernoulli(logits=logits)
    z = q.sample()
    p = Normal(slope * z, 0.7)
    y = p.rsample()
    loss = ((y - 0.4) ** 2).mean() + 0.3 * kl_divergence(p, Normal(0.0, 1.0)).mean()
    credit = ((y - 0.4) ** 2 + 0.3 * (slope * z) ** 2 / 2) / 2
    return loss, lambda: weigh(q.log_prob(z), credit)
