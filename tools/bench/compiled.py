"""Compiled steps, beside the estimator by hand under `torch.compile`: forward and backward.

Both are compiled by inductor. Those by hand have the credit of each element from the known graph,
no baseline, and nothing that the model does not need.
"""

# torch.distributions has no annotations.
# mypy: disable-error-code="no-any-return"

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution

from ancestral.estimators.compiled.compile import compile as compiled
from ancestral.tools.bench.rows import Row
from ancestral.tools.demo.belief_net import BeliefNet

ROUNDS = 600
Loss = Callable[[Tensor], Tensor]


class Model(NamedTuple):
    """A loss that draws, the same with its scores by hand, their parameters and an input."""

    name: str
    loss: Loss
    by_hand: Loss
    parameters: Sequence[Tensor]
    x: Tensor


def vector_site() -> Model:
    """Return a site of 64 coins, each with a cost."""
    logits = torch.zeros(64, requires_grad=True)

    def loss(x: Tensor) -> Tensor:
        return (Bernoulli(logits=logits).sample() - x).pow(2).sum()

    def by_hand(x: Tensor) -> Tensor:
        q = Bernoulli(logits=logits)
        z = q.sample()
        cost = (z - x).pow(2)
        return cost.sum() + (q.log_prob(z) * cost).sum()

    return Model("one vector site", loss, by_hand, [logits], torch.full((64,), 0.45))


def belief_net() -> Model:
    """Return a belief net of two layers, at batch 64."""
    net = BeliefNet()

    def by_hand(x: Tensor) -> Tensor:
        q1 = Bernoulli(logits=net.infer_h1(x))
        h1 = q1.sample()
        q2 = Bernoulli(logits=net.infer_h2(h1))
        h2 = q2.sample()
        log_q1, log_q2 = q1.log_prob(h1), q2.log_prob(h2)
        log_p2 = Bernoulli(logits=net.prior_h2).log_prob(h2)
        log_p1 = Bernoulli(logits=net.generate_h1(h2)).log_prob(h1)
        log_px = Bernoulli(logits=net.generate_x(h1)).log_prob(x)
        with torch.no_grad():
            of_h2 = (log_q2 - log_p2).sum(-1, keepdim=True) - log_p1.sum(-1, keepdim=True)
            credit1 = (log_q1 + of_h2 - log_px.sum(-1, keepdim=True)) / len(x)
            credit2 = (log_q2 - log_p2 - log_p1.sum(-1, keepdim=True)) / len(x)
        likelihood = (log_p2.sum(-1) + log_p1.sum(-1) + log_px.sum(-1)).mean()
        return (log_q1 * credit1).sum() + (log_q2 * credit2).sum() - likelihood

    x = torch.bernoulli(torch.full((64, 64), 0.4))
    return Model("belief net, batch 64", net, by_hand, list(net.parameters()), x)


def discrete_autoencoder(sites: int = 20, classes: int = 10) -> Model:
    """Return an autoencoder with 20 categories of 10, at batch 64."""
    encoder = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, sites * classes))
    decoder = nn.Sequential(nn.Linear(sites * classes, 128), nn.ReLU(), nn.Linear(128, 64))

    def parts(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = Categorical(logits=encoder(x).reshape(-1, sites, classes))
        z = q.sample()
        log_px = Bernoulli(logits=decoder(F.one_hot(z, classes).float().flatten(1))).log_prob(x)
        return q.log_prob(z), Categorical(logits=torch.zeros(classes)).log_prob(z), log_px

    def loss(x: Tensor) -> Tensor:
        log_q, log_p, log_px = parts(x)
        return (log_q.sum(-1) - log_p.sum(-1) - log_px.sum(-1)).mean()

    def by_hand(x: Tensor) -> Tensor:
        log_q, log_p, log_px = parts(x)
        likelihood = log_px.sum(-1)
        with torch.no_grad():
            credit = (log_q - log_p - likelihood[:, None]) / len(x)
        return (log_q * credit).sum() - likelihood.mean()

    parameters = [*encoder.parameters(), *decoder.parameters()]
    x = torch.bernoulli(torch.full((64, 64), 0.4))
    return Model("autoencoder of 20 categories, batch 64", loss, by_hand, parameters, x)


def chain(batch: int | None, steps: int = 80) -> Model:
    """Return a chain of 80 coins, each with a cost."""
    w = torch.tensor([0.3, -0.2], requires_grad=True)

    def draws(z: Tensor) -> Iterator[tuple[Distribution, Tensor]]:
        for _ in range(steps):
            q = Bernoulli(logits=w[0] + w[1] * z)
            z = q.sample()
            yield q, z

    def loss(z: Tensor) -> Tensor:
        return sum((((z - 0.45) ** 2).mean() for _, z in draws(z)), torch.zeros(()))

    def by_hand(z: Tensor) -> Tensor:
        drawn = list(draws(z))
        costs = torch.stack([(z - 0.45) ** 2 for _, z in drawn]) / max(z.numel(), 1)
        log_probs = torch.stack([q.log_prob(z) for q, z in drawn])
        to_go = costs.flip(0).cumsum(0).flip(0)
        return costs.sum() + (log_probs * to_go).sum()

    at = "" if batch is None else f", batch {batch}"
    return Model(
        f"chain of {steps}{at}", loss, by_hand, [w], torch.zeros(() if batch is None else batch)
    )


def compiled_rows() -> Iterator[Row]:
    """Measure each model: the median of interleaved steps to that by hand, and the fastest."""
    models = (vector_site, belief_net, discrete_autoencoder, lambda: chain(None), lambda: chain(64))
    before = Distribution._validate_args
    for make in models:
        torch.manual_seed(0)
        torch.compiler.reset()
        model = make()
        step = compiled(model.loss, baseline=None)
        began = time.perf_counter()
        step(model.x)
        seconds = time.perf_counter() - began
        Distribution.set_default_validate_args(False)  # by hand, the compiler needs it
        by_hand = torch.compile(model.by_hand, fullgraph=True)
        fastest, median = _ratios(model, step, by_hand)
        Distribution.set_default_validate_args(before)
        yield Row(f"compiled step, {model.name}, median to by hand compiled", median, 1.02)
        yield Row("  the fastest", fastest)
        yield Row("  first call, seconds", seconds)


def _ratios(model: Model, step: Loss, by_hand: Loss) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])

    def run(function: Loss) -> float:
        for parameter in model.parameters:
            parameter.grad = None
        began = time.perf_counter()
        function(model.x).backward()
        return time.perf_counter() - began

    for turn in range(ROUNDS + 10):
        pairs = list(zip((step, by_hand), times, strict=True))
        for function, found in pairs if turn % 2 else pairs[::-1]:
            seconds = run(function)
            if turn >= 10:
                found.append(seconds)
    ours, theirs = times
    return min(ours) / min(theirs), statistics.median(ours) / statistics.median(theirs)
