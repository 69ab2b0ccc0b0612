"""Small programs of finite sites, each a function of its parameters, to be run again.

They are small, so that all outcomes of an estimate of them can be enumerated.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, Normal, OneHotCategorical

import ancestral as an

Program = Callable[[Tensor], Tensor]


class Case(NamedTuple):
    """A program, with where it is differentiated."""

    program: Program
    at: list[float]

    @property
    def parameter(self) -> Tensor:
        """A new leaf, [n]."""
        return torch.tensor(self.at, dtype=torch.float64, requires_grad=True)


def one_bit(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta).sample()
    return (z - 0.45).pow(2).sum()  # type: ignore[no-any-return]


def bits_in_pairs(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta).sample()
    return (z - 0.3).pow(2).sum() + 1.3 * z[0] * z[1] * theta[0]  # type: ignore[no-any-return]


def by_probs(theta: Tensor) -> Tensor:
    z = Bernoulli(probs=theta.sigmoid() ** 2).sample()
    return (z[0] - 0.3 * z[1] + theta[1]) ** 2  # type: ignore[no-any-return]


def batch(theta: Tensor) -> Tensor:
    """Examples that have nothing in common but the parameters."""
    z = Bernoulli(logits=theta).sample()
    return ((z - torch.tensor([0.2, 0.7], dtype=theta.dtype)) ** 2 * theta.detach()).mean()  # type: ignore[no-any-return]


def batch_of_pairs(theta: Tensor) -> Tensor:
    """Examples whose elements have costs in common."""
    z = Bernoulli(logits=theta.expand(2, 2) + torch.tensor([[0.1], [0.7]])).sample()
    return ((z[:, 0] - 0.4 * z[:, 1] + 0.2) ** 2).mean()  # type: ignore[no-any-return]


def independent_events(theta: Tensor) -> Tensor:
    z = Independent(Bernoulli(logits=theta), 1).sample()
    return (z.sum() - 0.7) ** 2


def many_of_one(theta: Tensor) -> Tensor:
    z = Bernoulli(logits=theta[0]).sample((2,))
    return (z[0] + 0.5 * z[1] - 0.3) ** 2 * theta[1]  # type: ignore[no-any-return]


def layers(theta: Tensor) -> Tensor:
    x = Bernoulli(logits=theta).sample()
    y = Bernoulli(logits=theta.sum() - x[0] + 0.5 * x[1]).sample()
    return (x[0] - 0.3) ** 2 + (y - 0.6 * x[1] + 0.1) ** 2  # type: ignore[no-any-return]


def loop(theta: Tensor) -> Tensor:
    z, total = torch.zeros((), dtype=theta.dtype), torch.zeros((), dtype=theta.dtype)
    for _ in range(2):
        z = Bernoulli(logits=theta[0] + theta[1] * z).sample()
        total = total + (z - 0.45) ** 2 + z * theta[1]
    return total


def beside(theta: Tensor) -> Tensor:
    """A site that the first does not reach, drawn after it."""
    x = Bernoulli(logits=theta[0]).sample()
    y = Bernoulli(logits=theta[1]).sample()
    return (x - 0.3) ** 2 * y + y * theta[0]  # type: ignore[no-any-return]


def branch(theta: Tensor) -> Tensor:
    x = Bernoulli(logits=theta[0]).sample()
    if x.item() > 0:
        y = Bernoulli(logits=theta[1]).sample()
        return y * 2 + theta[0]  # type: ignore[no-any-return]
    return (theta[1] - 0.3) ** 2 + 0 * x  # type: ignore[no-any-return]


def elbo(theta: Tensor) -> Tensor:
    q = Bernoulli(logits=theta)
    z = q.sample()
    p = Bernoulli(logits=torch.tensor([0.3, -0.2], dtype=theta.dtype))
    return (q.log_prob(z) - p.log_prob(z)).sum() + (z.sum() - 0.4) ** 2  # type: ignore[no-any-return]


def mixed(theta: Tensor) -> Tensor:
    """A reparameterized draw above, and one below."""
    a = Normal(theta[0], 0.5).rsample()
    z = Bernoulli(logits=theta[1] + a).sample()
    b = Normal(z * theta[0], 0.3).rsample()
    return (b - 0.2) ** 2 + a * z  # type: ignore[no-any-return]


def in_a_plate(theta: Tensor) -> Tensor:
    with an.plate("examples", 2):
        z = an.sample("z", Bernoulli(logits=theta[0]))
        y = an.sample("y", Bernoulli(logits=theta[1] + z))
    return ((z - 0.4 * y - 0.2) ** 2).sum()


def classes(theta: Tensor) -> Tensor:
    z = Categorical(logits=theta).sample()
    return (z - 1.3) ** 2 * (1 + theta[0])  # type: ignore[no-any-return]


def classes_in_a_batch(theta: Tensor) -> Tensor:
    z = Categorical(logits=theta.expand(2, 3) * torch.tensor([[1.0], [0.3]])).sample()
    return ((z - torch.tensor([1.3, 0.2], dtype=theta.dtype)) ** 2).mean()  # type: ignore[no-any-return]


def classes_below(theta: Tensor) -> Tensor:
    x = Bernoulli(logits=theta[0]).sample()
    z = Categorical(logits=theta * (1 + x)).sample()
    return (z - x) ** 2 + x * theta[1]  # type: ignore[no-any-return]


def one_hot(theta: Tensor) -> Tensor:
    z = OneHotCategorical(logits=theta).sample()
    return (z * torch.tensor([1.0, 2.0, -1.0], dtype=theta.dtype)).sum() ** 2 * (1 + theta[0])  # type: ignore[no-any-return]


def one_hot_pair(theta: Tensor) -> Tensor:
    z = OneHotCategorical(logits=torch.stack([theta, -theta])).sample()
    return (z[0] * z[1]).sum() + z[0, 0] * theta[1]  # type: ignore[no-any-return]


BITS = {
    each.__name__: Case(each, at)
    for each, at in (
        (one_bit, [1.4]),
        (bits_in_pairs, [0.3, -0.8]),
        (by_probs, [0.3, -0.8]),
        (batch, [0.3, -0.8]),
        (batch_of_pairs, [0.3, -0.8]),
        (independent_events, [0.9, -0.4]),
        (many_of_one, [0.9, -0.4]),
        (layers, [0.3, -0.8]),
        (loop, [0.3, -0.8]),
        (beside, [0.3, -0.8]),
        (branch, [0.3, -0.8]),
        (elbo, [0.9, -0.3]),
        (mixed, [0.3, -0.8]),
        (in_a_plate, [0.3, -0.8]),
    )
}
CLASSES = {
    each.__name__: Case(each, [0.3, -0.8, 0.1])
    for each in (classes, classes_in_a_batch, classes_below, one_hot, one_hot_pair)
}
