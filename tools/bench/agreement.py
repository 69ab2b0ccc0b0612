"""Agreement with exact results, by enumeration or in closed form.

The enumeration of all runs of a program and the networks lie among the tests, which must be on the
path, as they are in ``make bench``.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call, no-any-return"

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, MultivariateNormal, Normal

from ancestral.estimators.elimination.marginals import log_marginal
from ancestral.estimators.inference.elbo import elbo
from ancestral.estimators.inference.model_guide import Program
from ancestral.tools.bench.rows import Row
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.handlers import markov, mask, scale
from ancestral.trace.program.plate import plate, subsample
from ancestral.trace.program.primitives import observe, sample
from ancestral.trace.recording.record import record

X = torch.tensor([0.3, -1.2, 0.8], dtype=torch.float64)
SEEN = torch.tensor([True, False])
PART = 2
"""How many of the three repetitions a run has."""


NETWORKS = ("asia", "sachs", "child", "insurance", "alarm")


def agreement_rows(
    draws: int = 20, length: int = 50, queries: int = 1_000, networks: Sequence[str] = NETWORKS
) -> list[Row]:
    """Compare gradients, bounds, marginals and graphs with what is exact."""
    return [
        Row("ELBO gradient, mean over all outcomes, error", gradient_error(), 1e-6),
        Row("ELBO at the exact posterior, error", bound_error(draws), 1e-6),
        Row(f"marginal of an HMM of {length} steps, error", marginal_error(length), 1e-6),
        *network_rows(queries, networks),
    ]


# The gradient of a bound, over all outcomes and all subsamples.


def gradient_error() -> float:
    """Return the largest error of the mean gradient of an ELBO with plates, scale and mask."""
    from oracles import derivatives, exact_gradient, moments

    logits = torch.tensor([0.4, -0.7, 0.2], dtype=torch.float64, requires_grad=True)
    weights = torch.tensor([0.3, -0.5, 0.6], dtype=torch.float64, requires_grad=True)
    values = [logits, weights]
    everything = torch.arange(len(X))
    truth = exact_gradient(lambda *given: _negative_bound(everything, *given), values)
    found: list[Tensor] = []
    for part in itertools.combinations(range(len(X)), PART):
        chosen = torch.tensor([*part, *(set(range(len(X))) - set(part))])
        with mock.patch.object(torch, "randperm", lambda *_, order=chosen, **__: order):
            mean = moments(
                lambda *given, index=chosen[:PART]: _negative_bound(index, *given),
                values,
                lambda _, given: derivatives(elbo(*_pair(*given)).surrogate, given),
            ).mean
        found.append(mean)
    return (torch.stack(found).mean(0) - truth).abs().max().item()


def _pair(q: Tensor, p: Tensor) -> tuple[Program, Program]:
    """Return a model and a guide of a global coin, masked ones in a plate, and a subsample."""

    def model() -> None:
        g = sample("g", Bernoulli(logits=p[0]))
        with plate("pairs", 2), scale(0.5), mask(SEEN):
            w = sample("w", Bernoulli(logits=p[1] * g))
            observe("y", Normal(w * p[2], 1.0), X[:2])
        with plate("data", len(X), subsample_size=PART):
            z = sample("z", Bernoulli(logits=p[1] + g))
            observe("x", Normal(z * p[2] + g, 0.9), subsample(X))

    def guide() -> None:
        g = sample("g", Bernoulli(logits=q[0]))
        with plate("pairs", 2), scale(0.5), mask(SEEN):
            sample("w", Bernoulli(logits=q[:2] * g))
        with plate("data", len(X), subsample_size=PART) as index:
            sample("z", Bernoulli(logits=q[index] + 0.5 * g))

    return model, guide


def _negative_bound(index: Tensor, q: Tensor, p: Tensor) -> Tensor:
    """Return the same by hand for some of the repetitions, drawing as the guide does."""
    qg = Bernoulli(logits=q[0])
    g = qg.sample()
    qw = Bernoulli(logits=q[:2] * g)
    w = qw.sample()
    qz = Bernoulli(logits=q[index] + 0.5 * g)
    z = qz.sample()
    both = qw.log_prob(w) - Bernoulli(logits=p[1] * g).log_prob(w)
    pairs = torch.where(SEEN, both - Normal(w * p[2], 1.0).log_prob(X[:2]), 0.0)
    data = qz.log_prob(z) - Bernoulli(logits=p[1] + g).log_prob(z)
    data = data - Normal(z * p[2] + g, 0.9).log_prob(X[index])
    first = qg.log_prob(g) - Bernoulli(logits=p[0]).log_prob(g)
    return first + 0.5 * pairs.sum() + data.sum() * len(X) / len(index)


# The bound where it is tight, and a marginal.


def bound_error(draws: int) -> float:
    """Return the largest difference of a linear-Gaussian ELBO from the log-evidence.

    At the exact posterior every draw of the bound is the log-evidence.
    """
    g = torch.Generator().manual_seed(0)
    mean, x = (torch.randn(n, generator=g, dtype=torch.float64) for n in (2, 3))
    map_ = torch.randn(3, 2, generator=g, dtype=torch.float64)
    prior, noise = (torch.eye(n, dtype=torch.float64) * 0.7 + 0.2 for n in (2, 3))
    evidence = MultivariateNormal(map_ @ mean, map_ @ prior @ map_.T + noise).log_prob(x)
    gain = prior @ map_.T @ torch.linalg.inv(map_ @ prior @ map_.T + noise)
    posterior = MultivariateNormal(mean + gain @ (x - map_ @ mean), prior - gain @ map_ @ prior)

    def model() -> None:
        z = sample("z", MultivariateNormal(mean, prior))
        observe("x", MultivariateNormal(map_ @ z, noise), x)

    def guide() -> None:
        sample("z", posterior)

    return max((elbo(model, guide).value - evidence).abs().item() for _ in range(draws))


def marginal_error(length: int, states: int = 8) -> float:
    """Return the difference of the marginal of an HMM from the forward recursion."""
    g = torch.Generator().manual_seed(0)
    shapes = ((states,), (states, states), (states, 5))
    start, move, emit = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
    data = torch.randint(5, (length,), generator=g)
    with record() as trace, enumeration(first_dim=-1):
        z = sample("z0", Categorical(logits=start))
        observe("x0", Categorical(logits=emit[z]), data[0])
        for t in markov(range(1, length)):
            z = sample(f"z{t}", Categorical(logits=move[z]))
            observe(f"x{t}", Categorical(logits=emit[z]), data[t])
    emission = emit.log_softmax(-1)[:, data]
    alpha = start.log_softmax(-1) + emission[:, 0]
    for t in range(1, length):
        alpha = (alpha[:, None] + move.log_softmax(-1)).logsumexp(0) + emission[:, t]
    return (log_marginal(trace) - alpha.logsumexp(0)).abs().item()


# Graphs of known networks.


def network_rows(queries: int, names: Sequence[str]) -> Iterator[Row]:
    """Count the networks whose parents differ, and the answers that are not pgmpy's."""
    from networks import network

    found = [_differences(network(name), random.Random(name), queries) for name in names]
    yield Row(f"{', '.join(names)}: networks whose parents differ", sum(a for a, _ in found), 0)
    yield Row(f"  of {queries:,} d-separations each, differ", sum(b for _, b in found), 0)


def _differences(net: Any, rng: random.Random, queries: int) -> tuple[bool, int]:
    """Return whether the parents in a network differ, and how many of the answers."""
    with record() as trace:
        net.named()
    graph = trace.graph
    expected = {name: set(net.source.get_parents(name)) for name in net.parents}
    differs = {name: graph.parents(name) for name in net.parents} != expected
    wrong = 0
    for _ in range(queries):
        a, b, *given = rng.sample(list(net.parents), rng.randint(2, 7))
        wrong += graph.d_separated(a, b, given) == net.source.is_dconnected(a, b, given)
    return differs, wrong
