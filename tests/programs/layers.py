"""Layers that mix steps and features of a batch, decoders that are mapped, densities of batches."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, MultivariateNormal, kl_divergence
from torch.func import vmap

from programs.batches import INPUTS, LABELS, WEIGHTS
from programs.example import Weighed, const, example, weigh


def built(kind: Callable[..., nn.Module], *args: Any, **options: Any) -> Any:
    """Return a layer with fixed weights, in use."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(*args, **options).double().eval().requires_grad_(False)


MIXING = const((0.5, -0.3), (0.2, 1.0))
ATTENTION = built(nn.MultiheadAttention, 2, 1, batch_first=True)
ENCODER = built(nn.TransformerEncoderLayer, 2, 1, 4, batch_first=True)
RECURRENT = built(nn.GRU, 1, 2, batch_first=True)
COVARIANCE = const((1.0, 0.3), (0.3, 0.7))


def decoded(h: Tensor, scale: Tensor) -> Tensor:
    """Decode one example, [features]: what a decoder that is mapped does."""
    return (scale * (h @ MIXING)).tanh().cumsum(0).square().sum()


@example(WEIGHTS, 0.7)
def mapped_decoder(weight: Tensor, scale: Tensor) -> Weighed:
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    row = (scale * (z @ MIXING)).tanh().cumsum(1).square().sum(1) / 2
    loss = vmap(lambda h: decoded(h, scale))(z).mean()
    return loss, lambda: weigh(q.log_prob(z), row[:, None])


@example(WEIGHTS, 0.7)
def batched_decoder(weight: Tensor, scale: Tensor) -> Weighed:
    """The same, written with a batch."""
    q = Bernoulli(logits=INPUTS @ weight)
    z = q.sample()
    row = (scale * (z @ MIXING)).tanh().cumsum(1).square().sum(1)
    return row.mean(), lambda: weigh(q.log_prob(z), row[:, None] / 2)


@example(0.4, WEIGHTS)
def mapped_around_a_shared_site(logit: Tensor, weight: Tensor) -> Weighed:
    """What the function holds, all examples share; what is mapped, none does."""
    q_g, q = Bernoulli(logits=logit), Bernoulli(logits=INPUTS @ weight)
    g, z = q_g.sample(), q.sample()
    row = (z.sum(1) + g - LABELS) ** 2
    loss = vmap(lambda h, y: (h.sum() + g - y) ** 2, in_dims=(1, 0))(z.T, LABELS).sum()
    return loss, lambda: weigh(q_g.log_prob(g), row.sum()) + weigh(q.log_prob(z), row[:, None])


def _attended(z: Tensor) -> Tensor:
    x = z[:, :, None] * MIXING
    return ATTENTION(x, x, x, need_weights=False)[0].square().sum((1, 2))


def _encoded(z: Tensor) -> Tensor:
    return ENCODER(z[:, :, None] * MIXING)[:, 0, 0].exp()


def _stepped(z: Tensor) -> Tensor:
    return RECURRENT(z[:, :, None])[1][0].square().sum(1)


def _scored(z: Tensor) -> Tensor:
    return -MultivariateNormal(z @ MIXING, COVARIANCE).log_prob(INPUTS)


def _diverged(z: Tensor) -> Tensor:
    p = MultivariateNormal(z @ MIXING, COVARIANCE)
    return kl_divergence(p, MultivariateNormal(INPUTS, torch.eye(2, dtype=torch.float64)))


def _drawn(z: Tensor) -> Tensor:
    return F.one_hot(Categorical(logits=z @ MIXING).mode, 2).double() @ const(1.0, -2.0)


def _of_equal_means() -> Tensor:
    """Return what of the divergence depends on no mean, and so on no draw."""
    p = MultivariateNormal(INPUTS, COVARIANCE)
    return kl_divergence(p, MultivariateNormal(INPUTS, torch.eye(2, dtype=torch.float64)))


def _example(name: str, cost: Callable[[Tensor], Tensor]) -> None:
    def both(weight: Tensor) -> Weighed:
        q = Bernoulli(logits=INPUTS @ weight)
        z = q.sample()
        less = _of_equal_means() if cost is _diverged else 0.0
        return cost(z).mean(), lambda: weigh(q.log_prob(z), (cost(z) - less)[:, None] / 2)

    both.__name__ = name
    example(WEIGHTS)(both)


for _name, _cost in {
    "attention_over_features": _attended,
    "encoder_of_features": _encoded,
    "recurrence_over_features": _stepped,
    "density_of_a_batch": _scored,
    "divergence_of_a_batch": _diverged,
    "mode_of_a_batch": _drawn,
}.items():
    _example(_name, _cost)
