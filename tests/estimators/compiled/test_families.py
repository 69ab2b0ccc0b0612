"""Every family of `torch.distributions`, compiled: by its score, by its path, and by both."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributions as families
from steps import V, W, X, agree, agreeing
from torch import Tensor
from torch.distributions import (
    AffineTransform,
    Categorical,
    Distribution,
    Normal,
    SigmoidTransform,
)

import ancestral as an

pytestmark = pytest.mark.usefixtures("fresh_compiler")


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # in which some families make constants
    yield
    torch.set_default_dtype(before)


HALF = torch.tensor(0.5, dtype=torch.float64)
_Made = Callable[[Any], Distribution]

MADE: dict[str, _Made] = {
    "Bernoulli": lambda f: f(logits=W * X),
    "Beta": lambda f: f((W * X).exp(), (V + X).exp()),
    "Binomial": lambda f: f(5, logits=W * X),
    "Categorical": lambda f: f(logits=W * X),
    "Cauchy": lambda f: f(W * X, V.exp()),
    "Chi2": lambda f: f((W * X).exp()),
    "ContinuousBernoulli": lambda f: f(logits=W * X),
    "Dirichlet": lambda f: f((W * X).exp()),
    "Exponential": lambda f: f((W * X).exp()),
    "FisherSnedecor": lambda f: f((W * X).exp() + 3, V.exp() + 3),
    "Gamma": lambda f: f((W * X).exp(), V.exp()),
    "GeneralizedPareto": lambda f: f(W * X, V.exp(), HALF / 5),
    "Geometric": lambda f: f(logits=W * X),
    "Gumbel": lambda f: f(W * X, V.exp()),
    "HalfCauchy": lambda f: f((W * X).exp()),
    "HalfNormal": lambda f: f((W * X).exp()),
    "Independent": lambda f: f(Normal(W * X, V.exp()), 1),
    "InverseGamma": lambda f: f((W * X).exp() + 2, V.exp()),
    "Kumaraswamy": lambda f: f((W * X).exp(), V.exp()),
    "LKJCholesky": lambda f: f(3, W[0].exp()),
    "Laplace": lambda f: f(W * X, V.exp()),
    "LogNormal": lambda f: f(W * X, V.exp()),
    "LogisticNormal": lambda f: f(W * X, V.exp()),
    "LowRankMultivariateNormal": lambda f: f(W * X, torch.ones(3, 1).double(), V.exp()),
    "MixtureSameFamily": lambda f: f(Categorical(logits=W * X), Normal(V * X, 1.0)),
    "Multinomial": lambda f: f(5, logits=W * X),
    "MultivariateNormal": lambda f: f(W * X, scale_tril=V.exp().diag()),
    "NegativeBinomial": lambda f: f(V.exp(), logits=W * X),
    "Normal": lambda f: f(W * X, V.exp()),
    "OneHotCategorical": lambda f: f(logits=W * X),
    "OneHotCategoricalStraightThrough": lambda f: f(logits=W * X),
    "Pareto": lambda f: f((W * X).exp(), V.exp() + 3),
    "Poisson": lambda f: f((W * X).exp()),
    "RelaxedBernoulli": lambda f: f(HALF, logits=W * X),
    "RelaxedOneHotCategorical": lambda f: f(HALF, logits=W * X),
    "StudentT": lambda f: f((W * X).exp() + 3, W, V.exp()),
    "TransformedDistribution": lambda f: f(
        Normal(W * X, V.exp()), [SigmoidTransform(), AffineTransform(1.0, 2.0)]
    ),
    "Uniform": lambda f: f(W * X - 3, V.exp()),
    "VonMises": lambda f: f(W * X, V.exp()),
    "Weibull": lambda f: f((W * X).exp(), V.exp()),
    "Wishart": lambda f: f(HALF * 10, scale_tril=V.exp().diag()),
}
MOVING = ("GeneralizedPareto", "Pareto", "Uniform")  # what is learned moves the ends
REJECTING = ("Wishart",)
"""It draws again until a draw will do, with a gradient, which no graph can."""


def test_every_family_of_torch_is_here() -> None:
    found = {
        name
        for name in families.__all__
        if isinstance(getattr(families, name), type)
        and issubclass(getattr(families, name), Distribution)
    }
    assert found - {"Distribution", "ExponentialFamily"} == MADE.keys()


def _losses(name: str) -> Iterator[Callable[[], Tensor]]:
    """Yield a loss of a draw of `sample`, and of one of `rsample`, where it has one."""
    make, family = MADE[name], getattr(families, name)

    def scored() -> Any:
        q = make(family)
        z = q.sample()
        return (z * V.sum()).sin().mean() + q.log_prob(z).mean()

    def kinked() -> Any:
        z = make(family).rsample()
        return (z * V.sum()).sin().mean() + ((z > 0.5) * V.sum()).mean()

    yield scored
    if make(family).has_rsample:
        yield kinked


@pytest.mark.parametrize("name", sorted(MADE.keys() - {*REJECTING, *MOVING}))
def test_a_family_is_compiled_with_the_gradient_of_a_recording(name: str) -> None:
    for loss in _losses(name):
        step = agreeing(loss, [W, V], seeds=(0, 1))
        assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize("name", ["HalfCauchy", "HalfNormal", "Normal"])
def test_a_density_at_its_own_draw_of_rsample_is_known_as_such(name: str) -> None:
    def loss(weight: Tensor) -> Any:
        q = MADE[name](getattr(families, name))
        z = q.rsample()
        return weight * (q.log_prob(z) + (z > 0.5) * V.sum()).mean()

    step: Any = an.compile(loss, backend="eager")
    for seed, weight in enumerate((0.0, 1.0, 1.0)):  # the first step shows nothing
        agree(step, loss, [W, V], torch.tensor(weight), seed=seed)
    assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.filterwarnings("ignore::ancestral.errors.NotCompiledWarning")
def test_a_score_that_lacks_a_part_is_refused_as_in_a_recording(name: str) -> None:
    for loss in _losses(name):
        step: Any = an.compile(loss, backend="eager")
        with pytest.raises(an.errors.NoScoreError, match="moves"):
            step().backward()


@pytest.mark.parametrize("name", REJECTING)
@pytest.mark.filterwarnings("ignore:Singular sample detected")  # by torch
def test_a_family_that_draws_until_one_will_do_is_refused(name: str) -> None:
    for loss in _losses(name):
        with pytest.warns(an.errors.NotCompiledWarning, match="cannot follow it"):
            agreeing(loss, [W, V], seeds=(0,))
