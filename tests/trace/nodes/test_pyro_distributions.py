"""Distributions of Pyro: every class is a site, data, and a guide, as those of torch are."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as pd
import pytest
import torch
from programs.estimates import library
from torch import Tensor
from torch import distributions as d

import ancestral as an
from ancestral.estimators.credit.declared_costs import NonFiniteDensityError
from ancestral.trace.nodes.node import NoScoreError
from oracles import exact_gradient, moments

T = torch.tensor
TWO, EYE = torch.zeros(2), torch.eye(2)


def gaussian() -> Any:
    return pd.MultivariateNormal(TWO, EYE)


MADE: dict[str, Callable[[], Any]] = {
    "AffineBeta": lambda: pd.AffineBeta(2.0, 3.0, 1.0, 2.0),
    "AsymmetricLaplace": lambda: pd.AsymmetricLaplace(0.0, 1.0, 1.0),
    "AVFMultivariateNormal": lambda: pd.AVFMultivariateNormal(TWO, EYE, torch.ones(2, 1, 2)),
    "BetaBinomial": lambda: pd.BetaBinomial(2.0, 3.0, 5),
    "Delta": lambda: pd.Delta(T(1.0)),
    "Delta of events": lambda: pd.Delta(torch.ones(3, 2), event_dim=1),
    "Delta with a density": lambda: pd.Delta(torch.ones(3), T(0.5), event_dim=1),
    "DirichletMultinomial": lambda: pd.DirichletMultinomial(torch.ones(3), 5),
    "DiscreteHMM": lambda: pd.DiscreteHMM(TWO, torch.zeros(2, 2), pd.Normal(TWO, 1.0), duration=3),
    "ExpandedDistribution": lambda: pd.Poisson(T(2.0)).expand_by([3]),
    "ExtendedBetaBinomial": lambda: pd.ExtendedBetaBinomial(2.0, 3.0, 5),
    "ExtendedBinomial": lambda: pd.ExtendedBinomial(5, T(0.3)),
    "FoldedDistribution": lambda: pd.FoldedDistribution(pd.Normal(0.0, 1.0)),
    "GammaPoisson": lambda: pd.GammaPoisson(2.0, 3.0),
    "GaussianHMM": lambda: pd.GaussianHMM(gaussian(), EYE, gaussian(), EYE, gaussian(), duration=3),
    "InverseGamma": lambda: pd.InverseGamma(2.0, 3.0),
    "LKJ": lambda: pd.LKJ(3, T(1.5)),
    "Logistic": lambda: pd.Logistic(0.0, 1.0),
    "MaskedDistribution": lambda: pd.Normal(TWO, 1.0).mask(T([True, False])),
    "MaskedMixture": lambda: pd.MaskedMixture(
        T([True, False]), pd.Normal(TWO, 1.0), pd.Normal(TWO + 1, 1.0)
    ),
    "MixtureOfDiagNormals": lambda: pd.MixtureOfDiagNormals(
        torch.zeros(2, 3), torch.ones(2, 3), TWO
    ),
    "MultivariateStudentT": lambda: pd.MultivariateStudentT(T(3.0), TWO, EYE),
    "NanMaskedNormal": lambda: pd.NanMaskedNormal(TWO, 1.0),
    "OMTMultivariateNormal": lambda: pd.OMTMultivariateNormal(TWO, EYE),
    "OneOneMatching": lambda: pd.OneOneMatching(torch.zeros(3, 3)),
    "OneTwoMatching": lambda: pd.OneTwoMatching(torch.zeros(4, 2)),
    "OrderedLogistic": lambda: pd.OrderedLogistic(T(0.3), T([-1.0, 1.0])),
    "ProjectedNormal": lambda: pd.ProjectedNormal(T([1.0, 2.0])),
    "SineBivariateVonMises": lambda: pd.SineBivariateVonMises(
        T(0.0), T(0.0), T(2.0), T(2.0), T(0.5)
    ),
    "SineSkewed": lambda: pd.SineSkewed(pd.VonMises(T([0.0]), 1.0).to_event(1), T([0.3])),
    "SkewLogistic": lambda: pd.SkewLogistic(0.0, 1.0, 1.0),
    "SoftAsymmetricLaplace": lambda: pd.SoftAsymmetricLaplace(0.0, 1.0, 1.0),
    "SoftLaplace": lambda: pd.SoftLaplace(0.0, 1.0),
    "SpanningTree": lambda: pd.SpanningTree(torch.zeros(3)),
    "TruncatedPolyaGamma": lambda: pd.TruncatedPolyaGamma(T(1.0)),
    "Unit": lambda: pd.Unit(T(0.5)),
    "ZeroInflatedPoisson": lambda: pd.ZeroInflatedPoisson(T(2.0), gate=T(0.3)),
}


@pytest.mark.parametrize("name", MADE)
def test_a_class_of_pyro_is_a_site_and_data_and_a_guide(name: str) -> None:
    torch.manual_seed(0)
    fn = MADE[name]()
    value = fn.sample()
    expected = fn.log_prob(value).sum()
    with an.record() as trace:
        an.sample("x", MADE[name](), obs=value)
    torch.testing.assert_close(trace["x"].log_prob.sum(), expected)

    def program() -> None:
        an.sample("x", MADE[name]())

    with an.record() as trace:
        program()
    drawn = trace["x"]
    torch.testing.assert_close(drawn.log_prob.sum(), fn.log_prob(drawn.value).sum())
    bound = an.infer.elbo(program, program).value  # the guide is the model
    torch.testing.assert_close(bound, torch.zeros(()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("event_dim", [0, 1])
@pytest.mark.parametrize("is_grouped", [False, True])
def test_a_delta_is_a_guide_of_the_most_likely_values(event_dim: int, is_grouped: bool) -> None:
    at = T([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    y = T([1.0, 2.0], dtype=torch.float64)
    events = 1 if is_grouped else event_dim

    def model() -> None:
        z = an.sample("z", d.Independent(d.Normal(0 * y, 1.0), events))
        an.sample("y", d.Independent(d.Normal(z, 1.0), events), obs=y)

    def guide() -> None:
        fn = pd.Delta(at, event_dim=event_dim)
        an.sample("z", fn.to_event(1 - event_dim) if is_grouped else fn)

    an.infer.elbo(model, guide).surrogate.backward()
    torch.testing.assert_close(at.grad, at.detach() - (y - at.detach()))


DELTAS: dict[str, Callable[[Tensor], Tensor]] = {
    "a value": lambda z: an.sample("d", pd.Delta(2 * z + 1)) ** 2,
    "an event": lambda z: an.sample("d", pd.Delta(z * torch.ones(2), event_dim=1)).sum() ** 2,
    "a draw of plain torch": lambda z: (pd.Delta(2 * z + 1).rsample() - 3) ** 2,
    "a density": lambda z: pd.Delta(0 * z, log_density=z).log_prob(0 * z.detach()) * 2,
}


@pytest.mark.parametrize("name", DELTAS)
def test_gradients_through_a_delta_are_exact(name: str) -> None:
    def program(logit: Tensor) -> Tensor:
        return DELTAS[name](d.Bernoulli(logits=logit).sample())

    logit = T(0.3, dtype=torch.float64, requires_grad=True)
    expected = exact_gradient(program, [logit])
    assert abs(expected) > 1e-2
    torch.testing.assert_close(moments(program, [logit], library()).mean, expected)


def test_a_value_that_a_delta_cannot_take_is_told() -> None:
    def model() -> None:
        an.sample("z", pd.Delta(T(1.0)))

    def guide() -> None:
        an.sample("z", pd.Delta(T(2.0)))

    with pytest.raises(NonFiniteDensityError, match="site 'z'"):
        an.infer.elbo(model, guide)


@pytest.mark.parametrize("cost", [lambda z: (z > 0).float() * z, lambda z: z.round() * z])
def test_a_delta_whose_score_would_be_needed_is_refused(cost: Callable[[Tensor], Tensor]) -> None:
    at = T(0.3, requires_grad=True)
    with an.record():
        z = an.sample("z", pd.Delta(at))
        loss = cost(z)
    with pytest.raises(NoScoreError, match=r"site 'z' .*log_prob of Delta has no derivative"):
        an.backward(loss)
