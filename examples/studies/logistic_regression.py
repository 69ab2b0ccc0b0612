"""Bayesian logistic regression: score, pathwise and measure-valued derivatives, by samples.

    python examples/studies/logistic_regression.py --steps 200 --draws 60 --out out

The weights of 30 standardized features of 569 tumours (scikit-learn's breast cancer), and of a
constant, have a normal posterior with a mean and a scale each. Its bound is estimated from 2 to 50
samples of all weights and a batch of 32. The variance of the gradient is measured with the same
batch, at a checkpoint that the pathwise derivative trains to; then each trains with new batches.

Mohamed, Rosca, Figurnov and Mnih (2020), "Monte Carlo gradient estimation in machine learning",
section 9.3.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import comparison
import torch
from comparison import OfBatches, Ordering, Row, Size
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

import ancestral as an
from ancestral.estimators import LeaveOneOut, MeasureValued, Plan

BATCH, SAMPLES, USUAL = 32, (2, 5, 10, 20, 50), 10
ESTIMATORS: Mapping[str, Any] = {
    "score": Plan(estimators="score", baseline=None),
    "score, others' mean": Plan(estimators="score", baseline=LeaveOneOut()),
    "pathwise": "pathwise",
    "measure-valued": MeasureValued(),
}
ORDERINGS = (
    Ordering("pathwise", "score", "Mohamed et al. 2020"),
    Ordering("measure-valued", "score", "Mohamed et al. 2020"),
    Ordering("measure-valued", "score", "asked here", of="work"),
    Ordering("measure-valued", "pathwise", "asked here"),
    Ordering("pathwise", "measure-valued", "Mohamed et al. 2020", of="work"),
    Ordering("score, others' mean", "score", "Kool et al. 2019"),
)


class Regression(nn.Module):
    """The posterior of the weights, normal with a mean and a scale each.

    Args:
        features: how many there are, with the constant.
        cases: how many there are in all; a batch counts for them.
        samples: how many draws of all weights a bound is the mean of.
    """

    def __init__(self, features: int, cases: int, samples: int) -> None:
        """Begin at the prior."""
        super().__init__()
        self.loc, self.log_scale = (nn.Parameter(torch.zeros(features)) for _ in range(2))
        self.cases, self.samples = cases, samples

    def forward(self, data: Tensor) -> Tensor:
        """Return the negative bound by a case, in nats; [batch, 1 + features], answers first."""
        answers, features = data[:, 0], data[:, 1:]
        q = Normal(self.loc, self.log_scale.exp(), validate_args=False)
        weights = q.expand((self.samples, len(self.loc))).rsample()
        odds = weights @ features.T
        log_likelihood = Bernoulli(logits=odds, validate_args=False).log_prob(answers)
        prior = Normal(torch.zeros_like(self.loc), 1.0)
        divergence = kl_divergence(q, prior).sum()
        bound: Tensor = log_likelihood.mean() - divergence / self.cases
        return -bound


class Found(NamedTuple):
    """What the study has found: rows by samples and estimator, and the curves of bounds."""

    rows: Mapping[int, Mapping[str, Row]]
    curves: Mapping[str, Tensor]
    accuracy: float

    def __str__(self) -> str:
        """Return the table."""
        last = max(self.rows)
        lines = [["estimator", "evaluations", *(f"variance of {n}" for n in self.rows), "bound"]]
        for name, row in self.rows[last].items():
            variances = [str(rows[name].variance) for rows in self.rows.values()]
            curve = self.curves[name]
            bound = f"{curve[-max(len(curve) // 10, 1) :].mean():.4f}"
            lines.append([name, f"{row.evaluations:.3g}", *variances, bound])
        return comparison.aligned(lines)


def cases() -> Tensor:
    """Return the answers, the constant and the standardized features, [569, 32].

    Raises:
        MissingPackageError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_breast_cancer  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise comparison.MissingPackageError("scikit-learn", "the study") from error
    found = load_breast_cancer()
    features, answers = torch.as_tensor(found.data), torch.as_tensor(found.target)
    scaled = (features - features.mean(0)) / features.std(0)
    return torch.cat([answers[:, None], torch.ones(len(scaled), 1), scaled], 1).float()


def main(size: Size) -> Found:
    """Run the study, print the table and orderings, and draw the plot."""
    data = cases()
    torch.manual_seed(0)
    model = Regression(data.shape[1] - 1, len(data), USUAL)
    whole = OfBatches(model, BATCH)
    trained = an.study(
        whole,
        data,
        estimators=ESTIMATORS,
        draws=4,
        steps=size.steps,
        workers=size.workers,
        out=size.folder("logistic_regression", "training"),
    )
    comparison.train(whole, data, "pathwise", size.steps, 0.01)
    fixed = data[torch.randperm(len(data))[:BATCH]]
    rows = {}
    for samples in (2, 4) if size.is_quick else SAMPLES:
        model.samples = samples
        measured = an.study(
            model,
            fixed,
            estimators=ESTIMATORS,
            draws=size.draws,
            steps=0,
            workers=size.workers,
            out=size.folder("logistic_regression", f"{samples}_samples"),
        )
        rows[samples] = {row.estimator: comparison.row_of(row) for row in measured.total}
    with torch.no_grad():
        right = (data[:, 1:] @ model.loc > 0) == (data[:, 0] > 0)
    curves = {name: -torch.from_numpy(losses) for name, (_, losses) in trained.curves.items()}
    found = Found(rows, curves, float(right.float().mean()))
    show(found, size)
    return found


def show(found: Found, size: Size) -> None:
    """Print the table and orderings, and draw the plot."""
    print(f"variance by samples, and the bound by {USUAL} samples\n\n{found}")
    print(f"\n{found.accuracy:.1%} of all cases are right by the mean of the posterior")
    most = max(found.rows)
    print(f"\nwith {most} samples:")
    for each in ORDERINGS:
        print(each.seen(found.rows[most]))
    if size.out is None:
        return
    samples = [float(number) for number in found.rows]
    by_samples = {
        name: (samples, [rows[name].variance.value for rows in found.rows.values()])
        for name in ESTIMATORS
    }
    bounds = {name: comparison.smooth(curve) for name, curve in found.curves.items()}
    comparison.plot(
        size.out / "logistic_regression.png",
        [
            comparison.lines(by_samples, "samples", "variance", xscale="log", yscale="log"),
            comparison.lines(bounds, "step", "bound of a case (nats)"),
        ],
    )


if __name__ == "__main__":
    comparison.command(__doc__, main, steps=200, draws=60)
