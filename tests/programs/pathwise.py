"""Reparameterized draws among the others: a pathwise derivative beside the scores."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

from torch import Tensor
from torch.distributions import Bernoulli, Normal

from programs.example import credits_of, weigh


def coin_then_normal(logits: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    z = Bernoulli(logits=logits).sample()
    y = Normal(shift * z, scale.exp()).rsample()
    return ((y - 1.0) ** 2).sum()


@credits_of(coin_then_normal, (0.3, -0.8), 1.5, -0.4)
def _(logits: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    q = Bernoulli(logits=logits)
    z = q.sample()
    y = Normal(shift * z, scale.exp()).rsample()
    cost = (y - 1.0) ** 2
    return cost.sum() + weigh(q.log_prob(z), cost)


def normal_then_coin(loc: Tensor, scale: Tensor, slope: Tensor) -> Tensor:
    """The score of the coin carries a derivative to the parameters of the normal."""
    y = Normal(loc, scale.exp()).rsample()
    z = Bernoulli(logits=slope * y).sample()
    return ((z - 0.45) ** 2 * y).sum() + y.square().mean()


@credits_of(normal_then_coin, (0.3, -0.8), -0.4, 0.9)
def _(loc: Tensor, scale: Tensor, slope: Tensor) -> Tensor:
    y = Normal(loc, scale.exp()).rsample()
    q = Bernoulli(logits=slope * y)
    z = q.sample()
    cost = (z - 0.45) ** 2 * y
    return cost.sum() + (y**2).mean() + weigh(q.log_prob(z), cost)


def coin_normal_coin(logit: Tensor, shift: Tensor, slope: Tensor) -> Tensor:
    a = Bernoulli(logits=logit).sample()
    y = Normal(shift * a, 0.5).rsample()
    b = Bernoulli(logits=slope * y).sample()
    return (b - 0.3) ** 2 + 0.1 * y**3 + 2.0 * a


@credits_of(coin_normal_coin, 0.6, -0.8, 1.1)
def _(logit: Tensor, shift: Tensor, slope: Tensor) -> Tensor:
    q_a = Bernoulli(logits=logit)
    a = q_a.sample()
    y = Normal(shift * a, 0.5).rsample()
    q_b = Bernoulli(logits=slope * y)
    b = q_b.sample()
    c_b, c_y = (b - 0.3) ** 2, 0.1 * y**3
    return c_y + weigh(q_a.log_prob(a), c_b + c_y + 2.0 * a) + weigh(q_b.log_prob(b), c_b)
