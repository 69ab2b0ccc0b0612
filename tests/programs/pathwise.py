"""Reparameterized draws among the others: a pathwise derivative beside the scores."""

from torch import Tensor
from torch.distributions import Bernoulli, Normal

from programs.example import Weighed, example, weigh


@example((0.3, -0.8), 1.5, -0.4)
def coin_then_normal(logits: Tensor, shift: Tensor, scale: Tensor) -> Weighed:
    q = Bernoulli(logits=logits)
    z = q.sample()
    y = Normal(shift * z, scale.exp()).rsample()
    return ((y - 1.0) ** 2).sum(), lambda: weigh(q.log_prob(z), (y - 1.0) ** 2)


@example((0.3, -0.8), -0.4, 0.9)
def normal_then_coin(loc: Tensor, scale: Tensor, slope: Tensor) -> Weighed:
    """The score of the coin carries a derivative to the parameters of the normal."""
    y = Normal(loc, scale.exp()).rsample()
    q = Bernoulli(logits=slope * y)
    z = q.sample()
    loss = ((z - 0.45) ** 2 * y).sum() + y.square().mean()
    return loss, lambda: weigh(q.log_prob(z), (z - 0.45) ** 2 * y)


@example(0.6, -0.8, 1.1)
def coin_normal_coin(logit: Tensor, shift: Tensor, slope: Tensor) -> Weighed:
    q_a = Bernoulli(logits=logit)
    a = q_a.sample()
    y = Normal(shift * a, 0.5).rsample()
    q_b = Bernoulli(logits=slope * y)
    b = q_b.sample()
    c_b, c_y = (b - 0.3) ** 2, 0.1 * y**3
    return (
        (b - 0.3) ** 2 + 0.1 * y**3 + 2.0 * a,
        lambda: weigh(q_a.log_prob(a), c_b + c_y + 2.0 * a) + weigh(q_b.log_prob(b), c_b),
    )
