"""A step of a loss for Pyro: its value and gradients at the draws of one seed."""

# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from programs.in_pyro import (
    Program,
    pyro,
)

Made = Callable[[], tuple[Program, Program, tuple[Any, ...]]]
T = torch.tensor


def step(loss: Any, made: Made) -> tuple[float, dict[str, Any]]:
    """Return a loss and the gradients of the parameters, at the draws of one seed."""
    pyro.clear_param_store()
    pyro.set_rng_seed(1)
    value = loss.loss_and_grads(*flat(made))
    leaves = pyro.get_param_store().named_parameters()
    return value, {name: leaf.grad for name, leaf in leaves}


def flat(made: Made) -> tuple[Any, ...]:
    model, guide, data = made()
    return model, guide, *data


def mixed() -> tuple[Program, Program, tuple[Any, ...]]:
    def model(x: Tensor) -> None:
        a = pyro.sample("a", dist.Bernoulli(0.4))
        with pyro.plate("n", 4):
            z = pyro.sample("z", dist.Normal(a, 1.0))
            k = pyro.sample("k", dist.Bernoulli(logits=z))
            pyro.sample("x", dist.Normal(z + k, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        a = pyro.sample("a", dist.Bernoulli(logits=pyro.param("q_a", T(0.3))))
        with pyro.plate("n", 4):
            z = pyro.sample("z", dist.Normal(pyro.param("q_z", torch.zeros(4)) + a, 1.0))
            pyro.sample("k", dist.Bernoulli(logits=pyro.param("q_k", torch.zeros(4)) + z))

    return model, guide, (torch.arange(4.0),)


def nothing() -> None:
    """Draw nothing."""
