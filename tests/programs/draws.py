"""The draws of random programs: ops whose operand becomes a parameter."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical

from programs.ops import Op, fixed, has_dims

TABLE = torch.arange(8, dtype=torch.float64).sin()


def logits(x: Tensor) -> Tensor:
    return 1.5 * x.tanh()


def embedded(x: Tensor, _: object) -> Tensor:
    z = Categorical(logits=logits(x)).sample()
    return F.embedding(z, fixed(x.shape[-1], 2))


def looked_up(x: Tensor, _: object) -> Tensor:
    return TABLE[Categorical(logits=logits(x)).sample()]


def scored(x: Tensor, _: object) -> Tensor:
    """Return a draw beside its own log-probability."""
    q = Bernoulli(logits=logits(x))
    z = q.sample()
    return z + 0.3 * q.log_prob(z)


def log_prob(x: Tensor, _: object) -> Tensor:
    q = Bernoulli(logits=logits(x))
    return q.log_prob(q.sample())


DRAWS: dict[str, Op] = {
    "bernoulli": Op(lambda x, _: Bernoulli(logits=logits(x)).sample()),
    "bernoulli_probs": Op(lambda x, _: Bernoulli(probs=x.sigmoid()).sample()),
    "bernoulli_twice": Op(lambda x, _: Bernoulli(logits=logits(x)).sample((2,))),
    "bernoulli_event": Op(
        lambda x, n: Independent(Bernoulli(logits=logits(x)), n).sample(),
        options=lambda x: range(x.ndim + 1),
    ),
    "bernoulli_scored": Op(scored),
    "bernoulli_log_prob": Op(log_prob),
    "categorical": Op(lambda x, _: Categorical(logits=logits(x)).sample().double(), has_dims),
    "categorical_one_hot": Op(
        lambda x, _: F.one_hot(Categorical(logits=logits(x)).sample(), x.shape[-1]).double(),
        has_dims,
    ),
    "categorical_embedded": Op(embedded, has_dims),
    "categorical_looked_up": Op(looked_up, has_dims),
    "one_hot_categorical": Op(
        lambda x, _: OneHotCategorical(probs=x.softmax(-1)).sample(), has_dims
    ),
    "normal": Op(lambda x, _: Normal(x.tanh(), 0.5).rsample()),
}


def outcomes(name: str, x: Tensor) -> int:
    """Return how many outcomes a draw has whose parameter is `x`."""
    if name.startswith(("categorical", "one_hot")):
        return int(x.shape[-1]) ** (x.numel() // int(x.shape[-1]))
    return 2 ** (x.numel() * (2 if name == "bernoulli_twice" else 1))
