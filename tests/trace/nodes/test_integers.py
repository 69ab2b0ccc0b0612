"""Integers: what is observed of a discrete site may be of any dtype that holds it."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as pd
import pytest
import torch
from torch import Tensor
from torch import distributions as d

import ancestral as an
from ancestral.errors import SiteError

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
DTYPES = (*INTEGERS, torch.bool)
THREE = torch.arange(3.0)
Make = Callable[[Tensor], Any]

COUNTS: dict[str, tuple[Make, Any]] = {
    "Binomial": (lambda a: d.Binomial(5, logits=a), 4),
    "Categorical": (lambda a: d.Categorical(logits=a * THREE), 2),
    "Geometric": (lambda a: d.Geometric(logits=a), 4),
    "Independent": (lambda a: d.Independent(d.Poisson(a.exp() + THREE), 1), [4, 0, 1]),
    "MixtureSameFamily": (
        lambda a: d.MixtureSameFamily(d.Categorical(logits=a * THREE), d.Poisson(THREE + 1)),
        4,
    ),
    "Multinomial": (lambda a: d.Multinomial(5, logits=a * THREE), [0, 4, 1]),
    "NegativeBinomial": (lambda a: d.NegativeBinomial(5, logits=a), 4),
    "OneHotCategorical": (lambda a: d.OneHotCategorical(logits=a * THREE), [0, 1, 0]),
    "OneHotCategoricalStraightThrough": (
        lambda a: d.OneHotCategoricalStraightThrough(logits=a * THREE),
        [0, 1, 0],
    ),
    "Poisson": (lambda a: d.Poisson(a.exp()), 4),
    "Pyro's BetaBinomial": (lambda a: pd.BetaBinomial(a.exp(), torch.tensor(1.0), 5), 4),
    "Pyro's DirichletMultinomial": (
        lambda a: pd.DirichletMultinomial(a.exp() + THREE, 5),
        [0, 4, 1],
    ),
    "Pyro's DiscreteHMM": (
        lambda a: pd.DiscreteHMM(
            a * THREE[:2], torch.zeros(2, 2), pd.Categorical(torch.ones(2, 3)), duration=3
        ),
        [0, 1, 2],
    ),
    "Pyro's GammaPoisson": (lambda a: pd.GammaPoisson(a.exp(), torch.tensor(1.0)), 4),
    "Pyro's OneOneMatching": (lambda a: pd.OneOneMatching(a * torch.eye(3)), [0, 2, 1]),
    "Pyro's OneTwoMatching": (lambda a: pd.OneTwoMatching(a * torch.ones(4, 2)), [0, 0, 1, 1]),
    "Pyro's OrderedLogistic": (lambda a: pd.OrderedLogistic(a, torch.tensor([-1.0, 1.0])), 2),
    "Pyro's SpanningTree": (lambda a: pd.SpanningTree(a * THREE), [[0, 1], [0, 2]]),
    "Pyro's ZeroInflatedPoisson": (
        lambda a: pd.ZeroInflatedPoisson(a.exp(), gate=torch.tensor(0.3)),
        4,
    ),
}
INDEXED = ("Pyro's OneOneMatching", "Pyro's OneTwoMatching", "Pyro's SpanningTree")
TRUTHS: dict[str, tuple[Make, Any]] = {
    "Bernoulli": (lambda a: d.Bernoulli(logits=a), 1),
    "Bernoulli of probabilities": (lambda a: d.Bernoulli(a.sigmoid()), 0),
    "Independent of Bernoulli": (
        lambda a: d.Independent(d.Bernoulli(logits=a * THREE), 1),
        [1, 0, 1],
    ),
    "Mixture of Bernoulli": (
        lambda a: d.MixtureSameFamily(d.Categorical(logits=a * THREE), d.Bernoulli(THREE / 4)),
        1,
    ),
    "Pyro's Bernoulli": (lambda a: pd.Bernoulli(logits=a), 1),
    "Pyro's masked Bernoulli": (
        lambda a: pd.Bernoulli(logits=a * THREE).mask(torch.tensor([True, False, True])),
        [1, 0, 1],
    ),
}


def of_observation(make: Callable[[], Any], x: Tensor) -> an.Trace:
    with an.record() as trace:
        an.sample("x", make(), obs=x)
    return trace


def of_handler(handler: Callable[[Tensor], Any]) -> Callable[..., an.Trace]:
    def run(make: Callable[[], Any], x: Tensor) -> an.Trace:
        with an.record() as trace, handler(x):
            an.sample("x", make())
        return trace

    return run


def of_replay(make: Callable[[], Any], x: Tensor) -> an.Trace:
    with an.record() as before, an.handlers.substitute({"x": x}):
        an.sample("x", make())
    with an.record() as trace, an.handlers.replay(before):
        an.sample("x", make())
    return trace


WAYS: dict[str, Callable[[Callable[[], Any], Tensor], an.Trace]] = {
    "obs": of_observation,
    "condition": of_handler(lambda x: an.handlers.condition({"x": x})),
    "substitute": of_handler(lambda x: an.handlers.substitute({"x": x})),
    "replay": of_replay,
}


def density_and_gradient(density: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    a = torch.tensor(0.3, requires_grad=True)
    found = density(a)
    (gradient,) = torch.autograd.grad(found.sum(), a, materialize_grads=True)
    return found, gradient


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("name", COUNTS)
def test_integers_have_the_density_that_torch_gives_them(
    name: str, dtype: torch.dtype, way: str
) -> None:
    make, value = COUNTS[name]
    x = torch.tensor(value, dtype=dtype)
    try:
        expected = density_and_gradient(lambda a: make(a).log_prob(x))
    except (RuntimeError, IndexError):
        if name not in INDEXED:
            raise
        pytest.skip("it indexes by its value, for which torch takes no such integers")
    found = density_and_gradient(lambda a: WAYS[way](lambda: make(a), x)["x"].log_prob)
    torch.testing.assert_close(found, expected)
    assert WAYS[way](lambda: make(torch.tensor(0.3)), x)["x"].value.dtype == dtype


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TRUTHS)
def test_truths_have_the_density_of_zeros_and_ones(name: str, dtype: torch.dtype, way: str) -> None:
    make, value = TRUTHS[name]
    x = torch.tensor(value)
    expected = density_and_gradient(lambda a: make(a).log_prob(x.float()))
    found = density_and_gradient(lambda a: WAYS[way](lambda: make(a), x.to(dtype))["x"].log_prob)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_are_observed_in_plates(dtype: torch.dtype) -> None:
    data = torch.tensor([0, 3, 1], dtype=dtype)
    rate = torch.tensor(2.0, requires_grad=True)
    with an.record() as trace, an.plate("n", 3):
        an.sample("x", d.Poisson(rate), obs=data)
        an.sample("y", d.Bernoulli(logits=rate), obs=data > 1)
    torch.testing.assert_close(trace["x"].log_prob, d.Poisson(rate).log_prob(data))
    expected = d.Bernoulli(logits=rate).log_prob((data > 1).float())
    torch.testing.assert_close(trace["y"].log_prob, expected)


@pytest.mark.parametrize(
    ("fn", "value", "text"),
    [
        (d.Normal(0.0, 1.0), torch.tensor(1), "floating dtype"),
        (d.Independent(d.Normal(torch.zeros(2), 1.0), 1), torch.tensor([1, 2]), "floating dtype"),
        (d.Dirichlet(torch.ones(2)), torch.tensor([1, 0]), "floating dtype"),
        (pd.OneOneMatching(torch.zeros(2, 2)), torch.tensor([0.0, 1.0]), "can check"),
    ],
)
def test_a_dtype_that_a_distribution_cannot_have_is_refused_by_name(
    fn: Any, value: Tensor, text: str
) -> None:
    with an.record(), pytest.raises(SiteError, match=rf"site 'x' .*{text}"):
        an.sample("x", fn, obs=value)
