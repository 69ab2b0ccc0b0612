"""The families of `torch.distributions`: how each is made of its parameters, in float64."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributions as d
from torch.distributions import transforms as t

BATCH = (3, 2)


class Family(NamedTuple):
    """A family, and its parameters, [*BATCH, *event]."""

    make: Callable[..., Any]
    parameters: dict[str, Callable[[], Tensor]]


def real(*event: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*BATCH, *event, dtype=torch.float64)


def above(least: float, *event: int) -> Callable[[], Tensor]:
    return lambda: torch.rand(*BATCH, *event, dtype=torch.float64) + least


def simplex(size: int) -> Callable[[], Tensor]:
    return lambda: real(size)().softmax(-1)


def definite(*event: int) -> Callable[[], Tensor]:
    def make() -> Tensor:
        root = real(*event)()
        return root @ root.mT + 2 * torch.eye(event[-1], dtype=torch.float64)

    return make


def triangular(*event: int) -> Callable[[], Tensor]:
    return lambda: torch.linalg.cholesky(definite(*event)())


def half(value: float = 0.5) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def transformed(*parts: Any) -> Callable[..., Any]:
    return lambda loc, scale: d.TransformedDistribution(d.Normal(loc, scale), list(parts))


def shifted(loc: Tensor, shift: Tensor, factor: Tensor, power: Tensor) -> Any:
    """Parameters in the transforms too, one of them inverted, one of an event."""
    parts: list[Any] = [
        t.ComposeTransform([t.ExpTransform(), t.PowerTransform(power)]),
        t.IndependentTransform(t.AffineTransform(shift, factor), 1).inv,
    ]
    return d.TransformedDistribution(d.Normal(loc, half()), parts)


def located(*event: int) -> dict[str, Callable[[], Tensor]]:
    return {"loc": real(*event), "scale": above(0.5, *event)}


FAMILIES: dict[str, Family] = {
    "Bernoulli": Family(d.Bernoulli, {"logits": real()}),
    "Beta": Family(d.Beta, {"concentration1": above(1.1), "concentration0": above(1.1)}),
    "Binomial": Family(lambda logits: d.Binomial(5, logits=logits), {"logits": real()}),
    "Categorical": Family(d.Categorical, {"logits": real(4)}),
    "Categorical of probabilities": Family(d.Categorical, {"probs": simplex(4)}),
    "Cauchy": Family(d.Cauchy, located()),
    "Chi2": Family(d.Chi2, {"df": above(0.5)}),
    "ContinuousBernoulli": Family(d.ContinuousBernoulli, {"logits": real()}),
    "Dirichlet": Family(d.Dirichlet, {"concentration": above(1.1, 4)}),
    "Exponential": Family(d.Exponential, {"rate": above(0.5)}),
    "FisherSnedecor": Family(d.FisherSnedecor, {"df1": above(3.0), "df2": above(5.0)}),
    "Gamma": Family(d.Gamma, {"concentration": above(0.5), "rate": above(0.5)}),
    "GeneralizedPareto": Family(
        lambda **given: d.GeneralizedPareto(
            **{k: x.float() for k, x in given.items()}, validate_args=False
        ),
        {"loc": real(), "scale": above(0.5), "concentration": above(0.1)},
    ),
    "Geometric": Family(d.Geometric, {"logits": real()}),
    "Gumbel": Family(d.Gumbel, located()),
    "HalfCauchy": Family(d.HalfCauchy, {"scale": above(0.5)}),
    "HalfNormal": Family(d.HalfNormal, {"scale": above(0.5)}),
    "Independent": Family(lambda loc, scale: d.Independent(d.Normal(loc, scale), 1), located(3)),
    "InverseGamma": Family(d.InverseGamma, {"concentration": above(3.0), "rate": above(0.5)}),
    "Kumaraswamy": Family(
        d.Kumaraswamy, {"concentration1": above(1.1), "concentration0": above(1.1)}
    ),
    "LKJCholesky": Family(
        lambda concentration: d.LKJCholesky(3, concentration), {"concentration": above(0.5)}
    ),
    "Laplace": Family(d.Laplace, located()),
    "LogNormal": Family(d.LogNormal, located()),
    "LogisticNormal": Family(d.LogisticNormal, located(3)),
    "LogitRelaxedBernoulli": Family(
        lambda logits: d.relaxed_bernoulli.LogitRelaxedBernoulli(half(), logits=logits),
        {"logits": real()},
    ),
    "ExpRelaxedCategorical": Family(
        lambda logits: d.relaxed_categorical.ExpRelaxedCategorical(half(), logits=logits),
        {"logits": real(4)},
    ),
    "LowRankMultivariateNormal": Family(
        d.LowRankMultivariateNormal,
        {"loc": real(3), "cov_factor": real(3, 2), "cov_diag": above(0.5, 3)},
    ),
    "MixtureSameFamily": Family(
        lambda logits, loc, scale: d.MixtureSameFamily(
            d.Categorical(logits=logits), d.Normal(loc, scale)
        ),
        {"logits": real(4), **located(4)},
    ),
    "MixtureSameFamily of events": Family(
        lambda logits, loc, scale: d.MixtureSameFamily(
            d.Categorical(logits=logits), d.MultivariateNormal(loc, scale_tril=scale)
        ),
        {"logits": real(4), "loc": real(4, 3), "scale": triangular(4, 3, 3)},
    ),
    "Multinomial": Family(lambda logits: d.Multinomial(5, logits=logits), {"logits": real(4)}),
    "MultivariateNormal": Family(
        d.MultivariateNormal, {"loc": real(3), "scale_tril": triangular(3, 3)}
    ),
    "MultivariateNormal of a covariance": Family(
        d.MultivariateNormal, {"loc": real(3), "covariance_matrix": definite(3, 3)}
    ),
    "MultivariateNormal of a precision": Family(
        d.MultivariateNormal, {"loc": real(3), "precision_matrix": definite(3, 3)}
    ),
    "NegativeBinomial": Family(
        lambda logits: d.NegativeBinomial(5, logits=logits), {"logits": real()}
    ),
    "Normal": Family(d.Normal, located()),
    "OneHotCategorical": Family(d.OneHotCategorical, {"logits": real(4)}),
    "OneHotCategoricalStraightThrough": Family(
        d.OneHotCategoricalStraightThrough, {"probs": simplex(4)}
    ),
    "Pareto": Family(d.Pareto, {"scale": above(0.5), "alpha": above(2.5)}),
    "Poisson": Family(d.Poisson, {"rate": above(0.5)}),
    "RelaxedBernoulli": Family(
        lambda logits: d.RelaxedBernoulli(half(), logits=logits), {"logits": real()}
    ),
    "RelaxedOneHotCategorical": Family(
        lambda logits: d.RelaxedOneHotCategorical(half(), logits=logits), {"logits": real(4)}
    ),
    "StudentT": Family(d.StudentT, {"df": above(3.0), **located()}),
    "Uniform": Family(
        lambda low, width: d.Uniform(low, low + width), {"low": real(), "width": above(2.0)}
    ),
    "VonMises": Family(d.VonMises, {"loc": real(), "concentration": above(0.5)}),
    "Weibull": Family(d.Weibull, {"scale": above(0.5), "concentration": above(1.1)}),
    "Wishart": Family(d.Wishart, {"df": above(4.0), "scale_tril": triangular(3, 3)}),
    "Wishart of a covariance": Family(
        d.Wishart, {"df": above(4.0), "covariance_matrix": definite(3, 3)}
    ),
    "of AffineTransform": Family(transformed(t.AffineTransform(half(1.0), half(2.0))), located()),
    "of CatTransform": Family(
        transformed(t.CatTransform([t.ExpTransform(), t.AffineTransform(0.0, 2.0)], -1, [1, 1])),
        located(),
    ),
    "of CorrCholeskyTransform": Family(transformed(t.CorrCholeskyTransform()), located(3)),
    "of CumulativeDistributionTransform": Family(
        transformed(t.CumulativeDistributionTransform(d.Normal(half(0.0), half(1.0)))), located()
    ),
    "of ExpTransform": Family(transformed(t.ExpTransform()), located()),
    "of IndependentTransform": Family(
        transformed(t.IndependentTransform(t.ExpTransform(), 1)), located(4)
    ),
    "of LowerCholeskyTransform": Family(transformed(t.LowerCholeskyTransform()), located(3, 3)),
    "of PositiveDefiniteTransform": Family(
        transformed(t.PositiveDefiniteTransform()), located(3, 3)
    ),
    "of ReshapeTransform": Family(
        transformed(t.ReshapeTransform(torch.Size((4,)), torch.Size((2, 2)))), located(4)
    ),
    "of SigmoidTransform": Family(transformed(t.SigmoidTransform()), located()),
    "of SoftplusTransform": Family(transformed(t.SoftplusTransform()), located()),
    "of StickBreakingTransform": Family(transformed(t.StickBreakingTransform()), located(3)),
    "of TanhTransform": Family(transformed(t.TanhTransform()), located()),
    "of transforms with parameters": Family(
        shifted, {"loc": real(3), "shift": real(3), "factor": above(0.5, 3), "power": above(0.5, 3)}
    ),
}


def parameters_of(name: str, seed: int = 0) -> dict[str, Tensor]:
    """Return the parameters of a family."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {key: make() for key, make in FAMILIES[name].parameters.items()}
