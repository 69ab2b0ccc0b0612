"""The toy of REBAR: one coin, with the exact bias and variance of estimators at every step.

    python examples/studies/toy.py --steps 100 --out toy.csv

It minimizes E[(b - t)²] over the log-odds of a coin b, with t = 0.45, by each estimator in turn,
from the same start and with the same seeds. The minimum is the coin that always falls on 0. At
every step, `an.verify` sums over the outcomes of the coin, and of what the estimator itself draws,
with quadratures that agree to eight digits where that is continuous.

Tucker, Mnih, Maddison, Lawson and Sohl-Dickstein (2017), "REBAR: low-variance, unbiased gradient
estimates for discrete latent variable models", section 5.1; Grathwohl et al. (2018),
"Backpropagation through the void", section 4.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import comparison
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators import (
    ARM,
    ARMS,
    REBAR,
    RLOO,
    DisARM,
    GumbelSoftmax,
    LocalExpectation,
    MuProp,
    StraightThrough,
    StraightThroughGumbel,
)

TARGET, RATE = 0.45, 4.0
ESTIMATORS: Mapping[str, Any] = {
    "score": "score",
    "RLOO(2)": RLOO(2),
    "ARM": ARM(),
    "DisARM": DisARM(),
    "ARMS(4)": ARMS(4),
    "local expectation": LocalExpectation(),
    "MuProp": MuProp(),
    "REBAR": REBAR(),
    "straight-through": StraightThrough(),
    "Gumbel-softmax": GumbelSoftmax(),
    "ST-Gumbel": StraightThroughGumbel(),
}


class Step(NamedTuple):
    """What is exact at one step of training by one estimator; `loss` is the expected one."""

    estimator: str
    step: int
    log_odds: float
    loss: float
    gradient: float
    bias: float
    variance: float
    evaluations: float


def toy(log_odds: Tensor) -> Tensor:
    """Flip the coin and return the loss, []."""
    b = Bernoulli(logits=log_odds).sample()
    loss: Tensor = (b - TARGET) ** 2
    return loss


def expected(log_odds: float) -> float:
    """Return the expectation of the loss."""
    p = 1 / (1 + float(torch.exp(torch.tensor(-log_odds, dtype=torch.float64))))
    return p * (1 - TARGET) ** 2 + (1 - p) * TARGET**2


def train(name: str, steps: int) -> list[Step]:
    """Train by one estimator, and verify it at every step."""
    log_odds = torch.zeros((), dtype=torch.float64, requires_grad=True)
    found: list[Step] = []
    chosen = {"*": ESTIMATORS[name]}
    for step in range(steps):
        exact = an.verify(toy, log_odds, estimators=chosen, baseline=None)
        (known,) = exact.values()
        place = log_odds.item()
        gradient, bias, variance = map(float, (known.exact, known.bias, known.variance))
        loss = expected(place)
        found.append(Step(name, step, place, loss, gradient, bias, variance, exact.evaluations))
        torch.manual_seed(step)
        estimate = an.estimate(toy, log_odds, estimators=chosen, baseline=None)
        (slope,) = torch.autograd.grad(estimate.surrogate, log_odds)
        with torch.no_grad():
            log_odds -= RATE * slope
    return found


def table(found: Mapping[str, Sequence[Step]]) -> str:
    """Return a line for each estimator: what it needs, its exact moments, and where it came to."""
    head = ["estimator", "evaluations", "largest bias", "variance: first", "last", "loss: last"]
    lines = [head]
    for name, steps in found.items():
        first, last = steps[0], steps[-1]
        bias = max(abs(step.bias) for step in steps)
        moments = f"{bias:.1e}", f"{first.variance:.2e}", f"{last.variance:.2e}"
        lines.append([name, f"{first.evaluations:.2f}", *moments, f"{last.loss:.5f}"])
    return comparison.aligned(lines)


def main(steps: int = 100, out: Path | None = None) -> dict[str, list[Step]]:
    """Train by each estimator, print the table, and write all steps into a CSV file."""
    found = {name: train(name, steps) for name in ESTIMATORS}
    print(table(found))
    if out is not None:
        comparison.write_csv(out, Step._fields, chain.from_iterable(found.values()))
    return found


if __name__ == "__main__":
    comparison.exact_command(__doc__, main, 100)
