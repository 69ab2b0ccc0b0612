"""Five programs that are written twice, in Pyro and here, and their data."""

from collections.abc import Callable
from typing import Any

import pyro as annotated
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # has no annotations
from torch import Tensor, nn
from torch.distributions import (
    Bernoulli,
    Categorical,
    HalfCauchy,
    Independent,
    LogNormal,
    Normal,
    constraints,
)

import ancestral as an
from ancestral import handlers

pyro: Any = annotated  # which wants what its documentation does not
poutine: Any = pyro.poutine
module_of: Any = PyroModule
Program = Callable[..., Any]

# An autoencoder of digits, which sees a part of them.


class Autoencoder:
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 4))
        self.decoder = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 64))

    def pyro_model(self, x: Tensor, **plate: Any) -> None:
        decoder = pyro.module("decoder", self.decoder)
        with pyro.plate("images", len(x), **plate) as index:
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x[index])

    def pyro_guide(self, x: Tensor, **plate: Any) -> None:
        encoder = pyro.module("encoder", self.encoder)
        with pyro.plate("images", len(x), **plate) as index:
            loc, log_scale = encoder(x[index]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def model(self, x: Tensor, **plate: Any) -> None:
        decoder = an.module("decoder", self.decoder)
        with an.plate("images", len(x), **plate) as index:
            z = an.sample("z", Independent(Normal(torch.zeros(2), 1.0), 1))
            an.sample("x", Independent(Bernoulli(logits=decoder(z)), 1), obs=x[index])

    def guide(self, x: Tensor, **plate: Any) -> None:
        encoder = an.module("encoder", self.encoder)
        with an.plate("images", len(x), **plate) as index:
            loc, log_scale = encoder(x[index]).chunk(2, -1)
            an.sample("z", Independent(Normal(loc, log_scale.exp()), 1))


def digits() -> Tensor:
    return torch.tensor(load_digits().data[:30] > 8).to(torch.float64)


# A hidden Markov model of sequences that differ in length.


def pyro_hmm(xs: Tensor, lengths: Tensor, table: Tensor, steps: Any = pyro.markov) -> None:
    loc = pyro.param("loc", torch.arange(3.0))
    with pyro.plate("sequences", len(xs)):
        state: Any = 0
        for t in steps(range(xs.shape[1])):
            with poutine.mask(mask=t < lengths):
                state = pyro.sample(f"state_{t}", dist.Categorical(table[state]))
                pyro.sample(f"x_{t}", dist.Normal(loc[state], 1.0), obs=xs[:, t])


def hmm(xs: Tensor, lengths: Tensor, table: Tensor, steps: Any = handlers.markov) -> None:
    loc = an.param("loc", torch.arange(3.0))
    with an.plate("sequences", len(xs)):
        state: Any = 0
        for t in steps(range(xs.shape[1])):
            with handlers.mask(t < lengths):
                state = an.sample(f"state_{t}", Categorical(table[state]))
                an.sample(f"x_{t}", Normal(loc[state], 1.0), obs=xs[:, t])


def sequences() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 5), torch.tensor([5, 3, 1, 4]), torch.randn(3, 3)


# Eight schools: a hierarchical regression.

EFFECTS = torch.tensor([28.0, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
ERRORS = torch.tensor([15.0, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)


def pyro_schools() -> None:
    mu = pyro.sample("mu", dist.Normal(torch.tensor(0.0), 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(5.0)))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.deterministic("effect", theta - mu)
        pyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)


def schools() -> None:
    mu = an.sample("mu", Normal(torch.tensor(0.0), 5.0))
    tau = an.sample("tau", HalfCauchy(torch.tensor(5.0)))
    with an.plate("schools", 8):
        theta = an.sample("theta", Normal(mu, tau))
        an.deterministic("effect", theta - mu)
        an.sample("y", Normal(theta, ERRORS), obs=EFFECTS)


def pyro_schools_guide(name: str = "theta") -> None:
    loc = pyro.param("loc", torch.tensor(1.0))
    scale = pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    lean = pyro.sample("lean", dist.Normal(loc, scale), infer={"is_auxiliary": True})
    pyro.sample("mu", dist.Normal(lean, 1.0))
    pyro.sample("tau", dist.LogNormal(pyro.param("log_tau", torch.tensor(0.5)), 0.3))
    width = pyro.param("width", torch.ones(8), constraint=constraints.interval(0.1, 9.0))
    with pyro.plate("schools", 8):
        pyro.sample(name, dist.Normal(pyro.param("locs", torch.zeros(8)), width))


def schools_guide(name: str = "theta") -> None:
    loc = an.param("loc", torch.tensor(1.0))
    scale = an.param("scale", torch.tensor(2.0), constraint=constraints.positive)
    lean = an.sample("lean", Normal(loc, scale), infer={"is_auxiliary": True})
    an.sample("mu", Normal(lean, 1.0))
    an.sample("tau", LogNormal(an.param("log_tau", torch.tensor(0.5)), 0.3))
    width = an.param("width", torch.ones(8), constraint=constraints.interval(0.1, 9.0))
    with an.plate("schools", 8):
        an.sample(name, Normal(an.param("locs", torch.zeros(8)), width))


def values() -> dict[str, Tensor]:
    return {"mu": torch.tensor(1.0), "tau": torch.tensor(2.0), "theta": torch.arange(8.0)}


# A mixture of which some assignments are known.


def pyro_mixture(x: Tensor, known: Tensor, seen: Any) -> None:
    weights = pyro.param("weights", torch.tensor([0.2, 0.1, -0.3]))
    loc = pyro.param("loc", torch.tensor([-1.0, 0.0, 2.0]))
    with pyro.plate("cases", len(x)):
        c = pyro.sample("c", dist.Categorical(logits=weights), obs=known, obs_mask=seen)
        pyro.sample("x", dist.Normal(loc[c], 1.0), obs=x)


def pyro_mixture_guide(x: Tensor, known: Tensor, seen: Tensor) -> None:
    slope = pyro.param("slope", torch.tensor([0.5, 0.1, -0.4]))
    with pyro.plate("cases", len(x)), poutine.mask(mask=~seen):
        pyro.sample("c_unobserved", dist.Categorical(logits=x[:, None] * slope))


def mixture(x: Tensor, known: Tensor, seen: Tensor) -> None:
    weights = an.param("weights", torch.tensor([0.2, 0.1, -0.3]))
    loc = an.param("loc", torch.tensor([-1.0, 0.0, 2.0]))
    with an.plate("cases", len(x)):
        c = an.sample("c", Categorical(logits=weights), obs=known, obs_mask=seen)
        an.sample("x", Normal(loc[c], 1.0), obs=x)


def mixture_guide(x: Tensor, known: Tensor, seen: Tensor) -> None:
    slope = an.param("slope", torch.tensor([0.5, 0.1, -0.4]))
    with an.plate("cases", len(x)), handlers.mask(~seen):
        an.sample("c_unobserved", Categorical(logits=x[:, None] * slope))


def cases() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(6), torch.tensor([0, 2, 0, 1, 0, 0]), torch.tensor([1, 1, 0, 1, 0, 0]) > 0


# A network whose weights are drawn.

SHAPES = {"0.weight": (3, 2), "0.bias": (3,), "2.weight": (1, 3), "2.bias": (1,)}


class PyroNetwork(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        linear = module_of[nn.Linear]
        self.net: Any = module_of[nn.Sequential](linear(2, 3), nn.Tanh(), linear(3, 1))
        for layer in (self.net[0], self.net[2]):
            for name, p in list(layer.named_parameters()):
                prior = dist.Normal(0.0, 1.0).expand(p.shape).to_event(p.dim())
                setattr(layer, name, PyroSample(prior))

    def forward(self, x: Tensor, y: Tensor) -> None:
        mean = self.net(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.3), obs=y)


def pyro_network_guide(x: Tensor, y: Tensor) -> None:
    for name, shape in SHAPES.items():
        loc = pyro.param(f"loc.{name}", torch.full(shape, 0.2))
        scale = pyro.param(f"scale.{name}", torch.ones(shape), constraint=constraints.positive)
        pyro.sample(f"net.{name}", dist.Normal(loc, scale).to_event(len(shape)))


def network() -> Program:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))

    @handlers.lift(Normal(torch.tensor(0.0), 1.0))
    def model(x: Tensor, y: Tensor) -> None:
        mean = an.module("net", net)(x).squeeze(-1)
        with an.plate("data", len(x)):
            an.sample("y", Normal(mean, 0.3), obs=y)

    return model


def network_guide(x: Tensor, y: Tensor) -> None:
    for name, shape in SHAPES.items():
        loc = an.param(f"loc.{name}", torch.full(shape, 0.2))
        scale = an.param(f"scale.{name}", torch.ones(shape), constraint=constraints.positive)
        an.sample(f"net.{name}", Independent(Normal(loc, scale), len(shape)))


def points() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(8, 2)
    return x, x.sum(-1).sin()
