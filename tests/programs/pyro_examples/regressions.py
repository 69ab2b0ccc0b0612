"""Regressions and small models of measurements, of which most have a guide that Pyro makes."""

# mypy: disable-error-code="no-any-return"

from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from sklearn.datasets import load_diabetes  # type: ignore[import-untyped]  # has no annotations
from torch import Tensor, nn
from torch.distributions import constraints

from programs.in_pyro import pyro, pyro_schools
from programs.pyro_examples.example import Example, example

module_of: Any = PyroModule

# Hits of 18 players in their first 45 times at bat of 1970; Efron and Morris (1975).
HITS = torch.tensor(
    [18.0, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7],
)


@example
def baseball() -> Example:
    """How well each player hits, of whom all are drawn from one population."""

    def model(hits: Tensor) -> None:
        mean = pyro.sample("mean", dist.Uniform(torch.tensor(0.0), 1.0))
        count = pyro.sample("count", dist.Pareto(torch.tensor(1.0), 1.5))
        with pyro.plate("players", len(hits)):
            chance = pyro.sample("chance", dist.Beta(mean * count, (1 - mean) * count))
            pyro.sample("hits", dist.Binomial(45, chance), obs=hits)

    hits = HITS.to(torch.get_default_dtype())
    return Example(model, AutoNormal(model), (hits,))


@example
def eight_schools() -> Example:
    """Effects of coaching; Rubin (1981)."""
    return Example(pyro_schools, AutoDiagonalNormal(pyro_schools), ())


class Regression(PyroModule):  # type: ignore[misc, unused-ignore]
    """A linear regression with a prior of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = module_of[nn.Linear](4, 1)
        self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 4]).to_event(2))
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(torch.tensor(0.0), 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)
        return mean


@example
def bayesian_regression() -> Example:
    """How diabetes goes on by age, sex, weight and pressure; Efron et al. (2004)."""
    found = load_diabetes()
    x, y = (
        torch.tensor(part[:60]).to(torch.get_default_dtype()) for part in (found.data, found.target)
    )
    model = Regression()
    return Example(model, AutoDiagonalNormal(model), (10 * x[:, :4], (y - y.mean()) / y.std()))


class Network(PyroModule):  # type: ignore[misc, unused-ignore]
    """A network of one hidden layer whose weights are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = module_of[nn.Sequential](
            module_of[nn.Linear](1, 5), nn.Tanh(), module_of[nn.Linear](5, 1)
        )
        for layer in (self.net[0], self.net[2]):
            for name, p in list(layer.named_parameters()):
                prior = dist.Normal(0.0, 1.0).expand(p.shape).to_event(p.dim())
                setattr(layer, name, PyroSample(prior))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        mean = self.net(x).squeeze(-1)
        sigma = pyro.sample("sigma", dist.Gamma(torch.tensor(0.5), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, sigma), obs=y)
        return mean


@example
def bnn() -> Example:
    x = torch.linspace(-1, 1, 25)
    model = Network()
    return Example(model, AutoNormal(model), (x[:, None], (3 * x).sin()))


@example
def inclined_plane() -> Example:
    """How long a box slides down a plane, by the friction that is to be found.

    It is moved step by step until it is at the end: Python reads where it is, and the time is a
    number, through which no derivative goes.
    """
    angle, length, step, gravity = 3.14159 / 6, 2.0, 0.02, 9.8

    def slide(friction: Tensor) -> float:
        pull = gravity * (torch.tensor(angle).sin() - friction * torch.tensor(angle).cos())
        steps, speed, way = 0, torch.zeros(()), torch.zeros(())
        while way < length and steps < 200:
            speed = (speed + pull * step).clamp_min(1e-3)
            way = way + speed * step
            steps += 1
        return steps * step

    def model(times: Tensor) -> None:
        friction = pyro.sample("friction", dist.Uniform(torch.tensor(0.0), 0.5))
        time = slide(friction)
        with pyro.plate("times", len(times)):
            pyro.sample("time", dist.Normal(time, 0.1), obs=times)

    def guide(times: Tensor) -> None:
        parts = pyro.param("parts", torch.tensor([2.0, 6.0]), constraint=constraints.positive)
        base = dist.Beta(parts[0], parts[1])
        half = dist.transforms.AffineTransform(0.0, 0.5)
        pyro.sample("friction", dist.TransformedDistribution(base, [half]))

    times = torch.tensor([1.02, 0.97, 1.05, 0.99])
    return Example(model, guide, (times,), is_right_there=False)
