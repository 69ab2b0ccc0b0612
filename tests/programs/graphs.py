"""Graphs of several sites, and losses that cannot be taken apart."""

import torch
from torch import Tensor
from torch.distributions import Bernoulli

from programs.example import EXAMPLES, Weighed, const, credits_of, example, site_credits_of, weigh
from programs.sites import LOGITS, TARGET


@example(0.4, -0.7)
def two_costs_of_one_loss(first: Tensor, second: Tensor) -> Weighed:
    """The first cost does not know the second site."""
    q_a = Bernoulli(logits=first)
    a = q_a.sample()
    q_b = Bernoulli(logits=second * (1 + a))
    b = q_b.sample()
    early, late = 5.0 * (a - 0.3) ** 2, -((b - 0.8) ** 2) / 4
    loss = 5.0 * (a - 0.3) ** 2 - (b - 0.8) ** 2 / 4
    return loss, lambda: weigh(q_a.log_prob(a), early + late) + weigh(q_b.log_prob(b), late)


@example(0.4, LOGITS)
def independent_sites(first: Tensor, second: Tensor) -> Weighed:
    q_a, q_b = Bernoulli(logits=first), Bernoulli(logits=second)
    a, b = q_a.sample(), q_b.sample()
    loss = const(2.0, -1.0)[0] * (a - 0.3) ** 2 + (b - TARGET).square().sum()
    return (
        loss,
        lambda: (
            weigh(q_a.log_prob(a), 2.0 * (a - 0.3) ** 2) + weigh(q_b.log_prob(b), (b - TARGET) ** 2)
        ),
    )


@site_credits_of(independent_sites)
def _(first: Tensor, second: Tensor) -> Tensor:
    q_a, q_b = Bernoulli(logits=first), Bernoulli(logits=second)
    a, b = q_a.sample(), q_b.sample()
    c_b = ((b - TARGET) ** 2).sum()
    return weigh(q_a.log_prob(a), 2.0 * (a - 0.3) ** 2) + weigh(q_b.log_prob(b), c_b)


@example(0.4, 0.8, -0.6)
def diamond(root: Tensor, left: Tensor, right: Tensor) -> Weighed:
    q_a = Bernoulli(logits=root)
    a = q_a.sample()
    q_b, q_c = Bernoulli(logits=left * a + 0.2), Bernoulli(logits=right * (1 - a))
    b, c = q_b.sample(), q_c.sample()
    q_d = Bernoulli(logits=left * b - right * c)
    d = q_d.sample()
    c_b, c_c, c_d = 2.0 * b * right, -0.5 * c.exp(), (d - 0.3) ** 2
    return (
        (d - 0.3) ** 2 + 2.0 * b * right - 0.5 * c.exp(),
        lambda: (
            weigh(q_a.log_prob(a), c_b + c_c + c_d)
            + weigh(q_b.log_prob(b), c_b + c_d)
            + weigh(q_c.log_prob(c), c_c + c_d)
            + weigh(q_d.log_prob(d), c_d)
        ),
    )


site_credits_of(diamond)(EXAMPLES["diamond"].by_hand)


@example(0.4, (0.9, -0.5, 1.2))
def tree(root: Tensor, branch: Tensor) -> Weighed:
    q_a = Bernoulli(logits=root)
    a = q_a.sample()
    q_b, q_c = Bernoulli(logits=branch[0] * a), Bernoulli(logits=branch[1] * a)
    b, c = q_b.sample(), q_c.sample()
    q_leaves = Bernoulli(logits=torch.stack([b, b - 1, c]) * branch[2])
    leaves = q_leaves.sample()
    ends, c_b = (leaves - TARGET) ** 2, (b - 0.1) ** 2
    return (
        ((leaves - TARGET) ** 2).sum() + (b - 0.1) ** 2 + a,
        lambda: (
            weigh(q_a.log_prob(a), a + c_b + ends.sum())
            + weigh(q_b.log_prob(b), c_b + ends[:2].sum())
            + weigh(q_c.log_prob(c), ends[2])
            + weigh(q_leaves.log_prob(leaves), ends)
        ),
    )


@example(0.4, -0.7)
def product_of_costs(first: Tensor, second: Tensor) -> Weighed:
    """One term: a product cannot be taken apart."""
    q_a, q_b = Bernoulli(logits=first), Bernoulli(logits=second)
    a, b = q_a.sample(), q_b.sample()
    both = (a - 0.3) ** 2 * (b + 0.8)
    return both + 2 * a, lambda: weigh(q_a.log_prob(a), both + 2 * a) + weigh(q_b.log_prob(b), both)


@example(LOGITS)
def logsumexp_of_costs(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    bound = -torch.logsumexp((z - TARGET) ** 2 * logits, 0)
    return bound + z.square().sum() / 2, lambda: weigh(q.log_prob(z), bound + z**2 / 2)


@example(LOGITS)
def term_of_no_site(logits: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    loss = (z * TARGET).exp().sum() + 0.7 * (logits**2).sum() + 3.0
    return loss, lambda: weigh(q.log_prob(z), (z * TARGET).exp())


@example(LOGITS, 0.8)
def detached(logits: Tensor, scale: Tensor) -> Weighed:
    """To detach stops autograd only: the value still depends on the draw."""
    q = Bernoulli(logits=logits)
    z = q.sample()
    held = (scale * (z - TARGET)).exp().detach()
    return (held * scale + z.detach()).sum(), lambda: weigh(q.log_prob(z), held * scale + z)


def surprise_as_reward(logits: Tensor) -> Tensor:
    """What is detached has no derivative that could be dropped."""
    q = Bernoulli(logits=logits)
    z = q.sample()
    return ((z - TARGET) ** 2 + 0.2 * q.log_prob(z).detach()).sum()  # type: ignore[no-any-return]


@credits_of(surprise_as_reward, LOGITS, scores_are_costs=True)
def _(logits: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    log_q = q.log_prob(z)
    return weigh(log_q, (z - TARGET) ** 2 + 0.2 * log_q)
