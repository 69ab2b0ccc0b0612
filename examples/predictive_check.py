"""A posterior predictive check, with its picture: is a normal error right for these data?

The progression of diabetes is regressed on body mass index and blood pressure (scikit-learn, 442
patients). Data sets drawn from the posterior predictive are laid over what was seen, and a test
quantity, the skewness, says where the model falls short: the data are skewed, its errors are not.
A second model has skewed errors; checked in the same way, it has too much of them.

    python examples/predictive_check.py check.png
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes  # type: ignore[import-untyped]
from torch import Tensor
from torch.distributions import Gamma, HalfNormal, Independent, Normal, constraints

import ancestral as an

Program = Callable[..., None]


@dataclass(frozen=True)
class Check:
    """What a model says of the skewness of the data: how often its data sets have more."""

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
    """Draw weights and noise each from a separate distribution, to be learned."""
    loc = an.param("loc", torch.tensor([0.5, 0.0, 0.0]))
    scale = an.param("scale", torch.full((3,), 0.05), constraints.positive)
    an.sample("weights", Independent(Normal(loc, scale), 1))
    shape = an.param("shape", torch.tensor(100.0), constraints.positive)
    typical = an.param("typical", torch.tensor(0.5), constraints.positive)
    an.sample("noise", Gamma(shape, shape / typical))


def skewness(data: Tensor) -> Tensor:
    """Return the third standardized moment over the last dimension."""
    centred = data - data.mean(-1, keepdim=True)
    return (centred**3).mean(-1) / (centred**2).mean(-1) ** 1.5


def checked(name: str, model: Program, steps: int) -> Check:
    """Fit a model, and draw data sets from it."""
    x, y = patients()
    store = an.ParamStore()
    with store:
        an.infer.elbo(model, guide, x, y)  # makes the parameters
        optimizer = torch.optim.Adam(store.parameters(), lr=0.02)
        for _ in range(steps):
            optimizer.zero_grad()
            an.infer.elbo(model, guide, x, y).surrogate.backward()
            optimizer.step()
        replicas = an.infer.Predictive(model, guide=guide, samples=500)(x, y)["progression"]
    seen = float(skewness(y))
    p_value = float((skewness(replicas) >= seen).float().mean())
    return Check(name, replicas, seen, p_value)


def draw(checks: list[Check], path: Path) -> None:
    """Draw the data over data sets of each model, and the skewness of both."""
    _, y = patients()
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(checks), squeeze=False)
    bins = torch.linspace(-2, 6, 41).tolist()
    for column, check in enumerate(checks):
        above, below = axes[0][column], axes[1][column]
        for replica in check.replicas[:40]:
            above.hist(replica.tolist(), bins, histtype="step", color="#9bb7d6", linewidth=0.6)
        above.hist(y.tolist(), bins, histtype="step", color="#a33b20", linewidth=1.8, label="seen")
        above.plot([], [], color="#9bb7d6", label="40 data sets of the model")
        above.set_title(check.name)
        above.set_xlabel("progression / 100")
        above.set_ylabel("patients")
        above.legend(frameon=False)
        below.hist(skewness(check.replicas).tolist(), 30, color="#9bb7d6")
        below.axvline(check.seen, color="#a33b20", linewidth=1.8)
        below.set_xlabel(f"skewness; {check.p_value:.0%} of the data sets have more than the data")
        below.set_ylabel("data sets")
    figure.savefig(path, dpi=110)


def main(path: str, steps: int = 800) -> list[Check]:
    """Check both models, print the result, draw the picture, and return the checks."""
    torch.manual_seed(0)
    checks = [
        checked("normal errors", symmetric, steps),
        checked("errors of a Gamma distribution", skewed, steps),
    ]
    for check in checks:
        own = skewness(check.replicas)
        print(
            f"{check.name:<32} skewness seen {check.seen:.2f}, of the model "
            f"{own.mean():.2f} ± {own.std():.2f}, p = {check.p_value:.3f}"
        )
    draw(checks, Path(path))
    return checks


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "predictive_check.png")
