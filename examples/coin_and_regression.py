"""Two posteriors, each by importance sampling and by the ELBO, beside the exact answer.

The coin is the share of malignant tumours among the 569 cases of scikit-learn's breast cancer data;
the regression is how a diabetes grew with body mass index and blood pressure, of 442 patients.

    python examples/coin_and_regression.py
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_breast_cancer, load_diabetes  # type: ignore[import-untyped]
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Beta,
    Independent,
    MultivariateNormal,
    Normal,
    constraints,
)

import ancestral as an

Program = Callable[..., None]


@dataclass(frozen=True)
class Answer:
    """The mean and the spread of one unknown, by one way of finding them."""

    name: str
    way: str
    mean: float
    spread: float


# --- the coin ---------------------------------------------------------------------------------


def cases() -> Tensor:
    """Return 1 for each malignant tumour and 0 for each benign one, [569]."""
    return torch.as_tensor(1.0 - load_breast_cancer().target, dtype=torch.float64)


def coin(seen: Tensor) -> None:
    """Draw the share from its prior, and observe the cases."""
    share = an.sample("share", Beta(torch.tensor(2.0).double(), torch.tensor(2.0).double()))
    with an.plate("cases", len(seen)):
        an.sample("malignant", Bernoulli(share), obs=seen)


def coin_guide(seen: Tensor) -> None:
    """Draw the share from a Beta with parameters to learn."""
    a = an.param("a", torch.tensor(10.0).double(), constraints.positive)
    b = an.param("b", torch.tensor(10.0).double(), constraints.positive)
    an.sample("share", Beta(a, b))


def coin_answers(steps: int) -> list[Answer]:
    """Return the posterior of the share: exact, by importance sampling, by the ELBO."""
    seen = cases()
    ones = float(seen.sum())
    exact = Beta(2.0 + ones, 2.0 + len(seen) - ones)

    weighed = an.infer.importance(coin, None, seen, samples=20_000)
    share = weighed.values["share"]
    mean = float(weighed.weights @ share)
    spread = math.sqrt(float(weighed.weights @ (share - mean) ** 2))

    store = an.ParamStore()
    with store:
        train(store, coin, coin_guide, seen, steps=steps, rate=0.3)
        fitted = Beta(an.param("a").detach(), an.param("b").detach())
    return [
        Answer("share", "exact", float(exact.mean), float(exact.stddev)),
        Answer("share", "importance", mean, spread),
        Answer("share", "elbo", float(fitted.mean), float(fitted.stddev)),
    ]


# --- the regression ---------------------------------------------------------------------------


def patients() -> tuple[Tensor, Tensor]:
    """Return a column of ones, body mass index and blood pressure [442, 3]; the progression [442].

    All in units of their standard deviation.
    """
    data = load_diabetes(scaled=False)
    names = list(data.feature_names)
    columns = torch.as_tensor(data.data[:, [names.index("bmi"), names.index("bp")]]).double()
    y = torch.as_tensor(data.target).double()
    columns = (columns - columns.mean(0)) / columns.std(0)
    return torch.cat([torch.ones(len(y), 1).double(), columns], 1), (y - y.mean()) / y.std()


NOISE = 0.75


def regression(x: Tensor, y: Tensor) -> None:
    """Draw the weights from their prior, and observe the progression of each patient."""
    prior = Normal(torch.zeros(3, dtype=torch.float64), 1.0)
    weights = an.sample("weights", Independent(prior, 1))
    with an.plate("patients", len(y)):
        an.sample("progression", Normal((x * weights).sum(-1), NOISE), obs=y)


def regression_guide(x: Tensor, y: Tensor) -> None:
    """Draw the weights from a normal distribution with parameters to learn."""
    loc = an.param("loc", torch.zeros(3).double())
    scale = an.param("scale", 0.1 * torch.eye(3).double(), constraints.lower_cholesky)
    an.sample("weights", MultivariateNormal(loc, scale_tril=scale))


def regression_answers(steps: int) -> list[Answer]:
    """Return the posterior of the weights: exact, by importance sampling, by the ELBO."""
    x, y = patients()
    precision = torch.eye(3).double() + x.T @ x / NOISE**2
    mean = torch.linalg.solve(precision, x.T @ y / NOISE**2)
    exact = MultivariateNormal(mean, precision_matrix=precision)

    store = an.ParamStore()
    with store:
        train(store, regression, regression_guide, x, y, steps=steps, rate=0.05)
        loc, scale = an.param("loc").detach(), an.param("scale").detach()
        fitted = MultivariateNormal(loc, scale_tril=scale)
        # The prior is too far from the posterior to draw from; the guide is not.
        weighed = an.infer.importance(regression, regression_guide, x, y, samples=5_000)
    print(f"Pareto k of the regression's weights: {weighed.pareto_k:.2f} (reliable below 0.7)")
    drawn = weighed.values["weights"]
    mean = weighed.weights @ drawn
    spread = (weighed.weights @ (drawn - mean) ** 2).sqrt()
    answers = []
    for i, name in enumerate(["intercept", "body mass", "pressure"]):
        answers += [
            Answer(name, "exact", float(exact.mean[i]), float(exact.stddev[i])),
            Answer(name, "importance", float(mean[i]), float(spread[i])),
            Answer(name, "elbo", float(fitted.mean[i]), float(fitted.stddev[i])),
        ]
    return answers


def train(
    store: an.ParamStore, model: Program, guide: Program, *data: Tensor, steps: int, rate: float
) -> None:
    """Fit a guide: plain torch, with `an.infer.elbo` for the loss."""
    an.infer.elbo(model, guide, *data)  # makes the parameters
    optimizer = torch.optim.Adam(store.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        found = an.infer.elbo(
            model, guide, *data, particles=8, vectorized=True, max_plate_nesting=1
        )
        found.surrogate.backward()
        optimizer.step()
        schedule.step()


def main(steps: int = 400) -> list[Answer]:
    """Print both posteriors, and return them."""
    torch.manual_seed(0)
    answers = coin_answers(steps) + regression_answers(steps)
    print(f"{'unknown':<12}{'by':<12}{'mean':>9}{'spread':>9}")
    for answer in answers:
        print(f"{answer.name:<12}{answer.way:<12}{answer.mean:>9.4f}{answer.spread:>9.4f}")
    return answers


if __name__ == "__main__":
    main()
