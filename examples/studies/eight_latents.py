"""Eight latents: an autoencoder whose estimators have exact bias and variance at every step.

    python examples/studies/eight_latents.py --steps 200 --out eight_latents.csv

Digits of 8 x 8 pixels (scikit-learn) are explained by eight binary latents, z ~ q(z | x), each with
256 outcomes for an image. At every step of training the model is run on all of them at once: what
an estimator gives for each outcome, weighed with its probability, has the exact mean and variance.
That of a batch is the sum over its images, whose draws are independent.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import comparison
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators import LocalExpectation, ReinMax, StraightThrough

LATENTS, BATCH = 8, 16


class Method(NamedTuple):
    """An estimator, and whether the mean cost of the step before is subtracted from the cost."""

    estimator: Any
    has_mean: bool = False


METHODS: Mapping[str, Method] = {
    "score": Method("score"),
    "score, mean of before": Method("score", has_mean=True),
    "local expectation": Method(LocalExpectation()),
    "straight-through": Method(StraightThrough()),
    "ReinMax": Method(ReinMax()),
}


class Fall(an.handlers.Handler):
    """Lets the coins of a block fall as they are told to: to the library, that was their draw."""

    def __init__(self, value: Tensor) -> None:
        """Take the outcomes, [*shape]."""
        self._value, self._is_first_run = value, True

    def process(self, message: an.handlers.Message) -> an.handlers.Message:
        """Give the outcomes in place of chance, unless a second run of an estimator has others."""
        if message.kind != "sample" or not self._is_first_run:
            return message
        self._is_first_run = False
        return replace(message, sampler=self._value.clone)


class Autoencoder(nn.Module):
    """q(z | x) with a linear layer, p(z), and p(x | z) with a layer of 32 between."""

    def __init__(self, pixels: int = 64, latents: int = LATENTS) -> None:
        """Make the layers; torch's generator decides their weights."""
        super().__init__()
        self.infer = nn.Linear(pixels, latents)
        self.prior = nn.Parameter(torch.zeros(latents))
        self.generate = nn.Sequential(nn.Linear(latents, 32), nn.Tanh(), nn.Linear(32, pixels))
        self.double()

    def cost(self, x: Tensor, q: Bernoulli) -> Tensor:
        """Draw z and return the negative ELBO of each image in nats, [batch]."""
        z = q.sample()
        log_q = q.log_prob(z).sum(-1)
        log_p = Bernoulli(logits=self.prior).log_prob(z).sum(-1)
        log_x = Bernoulli(logits=self.generate(z)).log_prob(x).sum(-1)
        cost: Tensor = log_q - log_p - log_x
        return cost


class Exact(NamedTuple):
    """What is exact at one step: the bound, and of the gradient by the weights of q(z | x).

    `relative_bias` is the length of the bias over that of the gradient, `variance` summed over all
    weights.
    """

    method: str
    step: int
    bound: float
    gradient: float
    relative_bias: float
    variance: float


def all_outcomes(latents: int) -> Tensor:
    """Return every outcome, [2^latents, latents]."""
    return torch.tensor([*itertools.product((0.0, 1.0), repeat=latents)], dtype=torch.float64)


def estimates(
    model: Autoencoder, x: Tensor, method: Method, mean: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the estimate by the log-odds for each outcome of each image, probabilities and costs.

    [images, outcomes, latents], and [images, outcomes] twice; the images count with their mean.
    """
    table = all_outcomes(model.prior.numel())
    images, (count, latents) = len(x), table.shape
    logits = model.infer(x).detach().repeat_interleave(count, 0).requires_grad_()
    outcomes, rows = table.repeat(images, 1), x.repeat_interleave(count, 0)
    kept: list[Tensor] = []

    def program() -> Tensor:
        cost = model.cost(rows, Bernoulli(logits=logits))
        kept.append(an.untrack(cost).detach())
        return cost.sum() / images

    with torch.random.fork_rng(), Fall(outcomes):
        surrogate = surrogate_of(program, method, mean / images)
    (rows_of,) = torch.autograd.grad(surrogate, logits)
    log_p = Bernoulli(logits=logits.detach()).log_prob(outcomes).sum(-1)
    shape = (images, count)
    return rows_of.reshape(*shape, latents), log_p.exp().reshape(shape), kept[0].reshape(shape)


def surrogate_of(program: Any, method: Method, mean: float) -> Tensor:
    """Return the surrogate of one run of a program, []."""
    if method.estimator != "score":
        return an.estimate(program, estimators={"*": method.estimator}).surrogate
    with an.record():
        loss = program()
    baseline = (lambda _: mean) if method.has_mean else None
    return an.surrogate(loss, baseline=baseline)


def measure(model: Autoencoder, x: Tensor, name: str, step: int, mean: float) -> Exact:
    """Return what is exact at one step of training."""
    g, p, costs = estimates(model, x, METHODS[name], mean)
    odds = model.infer(x).detach().requires_grad_()
    table = all_outcomes(model.prior.numel())
    log_p = Bernoulli(logits=odds[:, None]).log_prob(table).sum(-1)
    expected = (log_p.exp() * costs).sum(1).mean()
    (truth,) = torch.autograd.grad(expected, odds)  # log q has a derivative of mean zero
    average = torch.einsum("io,iol->il", p, g)
    spread = torch.einsum("io,iol->i", p, (g - average[:, None]).square())
    with_one = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)  # of weights and biases
    exact, found = (each.T @ with_one for each in (truth, average))
    variance = (spread * with_one.square().sum(1)).sum()
    bias = (found - exact).norm() / exact.norm()
    numbers = (-expected, exact.norm(), bias, variance)
    return Exact(name, step, *(float(number.detach()) for number in numbers))


def train(name: str, steps: int, seed: int = 0) -> list[Exact]:
    """Train by one method, and measure it at every step."""
    torch.manual_seed(seed)
    model, method = Autoencoder(), METHODS[name]
    data = comparison.images("digits").double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    found: list[Exact] = []
    mean = 0.0
    for step in range(steps):
        torch.manual_seed(step)
        x = data[torch.randint(len(data), (BATCH,))]
        found.append(measure(model, x, name, step, mean))
        seen: list[Tensor] = []

        def program(x: Tensor = x, seen: list[Tensor] = seen) -> Tensor:
            cost = model.cost(x, Bernoulli(logits=model.infer(x)))
            seen.append(an.untrack(cost).detach())
            return cost.mean()

        optimizer.zero_grad()
        surrogate_of(program, method, mean / BATCH).backward()
        optimizer.step()
        mean = float(seen[0].mean())
    return found


def table_of(found: Mapping[str, Sequence[Exact]]) -> str:
    """Return a line for each method: what it had on the way, and where it came to."""
    lines = [["method", "relative bias", "variance: first", "last", "bound"]]
    for name, rows in found.items():
        bias = max(row.relative_bias for row in rows)
        last = sum(row.bound for row in rows[-20:]) / len(rows[-20:])
        moments = f"{bias:.1e}", f"{rows[0].variance:.3g}", f"{rows[-1].variance:.3g}"
        lines.append([name, *moments, f"{last:.2f}"])
    return comparison.aligned(lines)


def main(steps: int = 200, out: Path | None = None) -> dict[str, list[Exact]]:
    """Train by each method, print the table, and write all steps into a CSV file."""
    found = {name: train(name, steps) for name in METHODS}
    print(table_of(found))
    if out is not None:
        rows = itertools.chain.from_iterable(found.values())
        comparison.write_csv(out, Exact._fields, rows)
    return found


if __name__ == "__main__":
    comparison.exact_command(__doc__, main, 200)
