"""A posterior predictive check, with its picture: is a normal error right for these data?

The progression of diabetes is regressed on body mass index and blood pressure (scikit-learn, 442
patients). Data sets drawn from the posterior predictive are laid over what was seen, and a test
quantity, the skewness, says where the model falls short: the data are skewed, its errors are not.
A second model with skewed errors is checked in the same way.

    python examples/predictive_check.py check.png
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor
from torch.distributions import Gamma, HalfNormal, Independent, Normal, constraints

import ancestral as an

Program = Callable[..., None]


@dataclass(frozen=True)
class Check:
    """What a model says of the skewness of the data: how often a data set of its own has more."""

    name: str
    replicas: Tensor  # [samples, 442]
    seen: float  # the skewness of the data
    p_value: float


def patients() -> tuple[Tensor, Tensor]:
    """Return body mass index and blood pressure [442, 2], standardized; the progression [442]."""
    data = load_diabetes(scaled=False)
    names = list(data.feature_names)
    columns = torch.as_tensor(data.data[:, [names.index("bmi"), names.index("bp")]]).float()
    return (columns - columns.mean(0)) / columns.std(0), torch.as_tensor(data.target).float() / 100


def symmetric(x: Tensor, y: Tensor) -> None:
    """Regress with normal errors."""
    weights = an.sample("weights", Independent(Normal(torch.zeros(3), 2.0), 1))
    noise = an.sample("noise", HalfNormal(1.0))
    mean = weights[..., 0] + x[:, 0] * weights[..., 1] + x[:, 1] * weights[..., 2]
    with an.plate("patients", len(y)):
        an.sample("progression", Normal(mean, noise), obs=y)


def skewed(x: Tensor, y: Tensor) -> None:
    """Regress the logarithm of the mean, with errors of a Gamma distribution."""
    weights = an.sample("weights", Independent(Normal(torch.zeros(3), 2.0), 1))
    noise = an.sample("noise", HalfNormal(1.0))
    mean = (weights[..., 0] + x[:, 0] * weights[..., 1] + x[:, 1] * weights[..., 2]).exp()
    with an.plate("patients", len(y)):
        an.sample("progression", Gamma(1 / noise**2, 1 / (noise**2 * mean)), obs=y)


def guide(x: Tensor, y: Tensor) -> None:
    """Draw weights and noise each from a distribution of its own, to be learned."""
    loc = an.param("loc", torch.tensor([0.5, 0.0, 0.0]))
    scale = an.param("scale", torch.full((3,), 0.05), constraints.positive)
    an.sample("weights", Independent(Normal(loc, scale), 1))
    shape = an.param("shape", torch.tensor(100.0), constraints.positive)
    an.sample("noise", Gamma(shape, shape / an.param("noise", torch.tensor(0.5), constraints.positive)))
