"""The variance of gradient estimates, measured at parameters that stand still.

Every estimator is repeated at the same parameters under the same seeds, so that a difference
between two of them is the estimators' own. The variance of a layer is the sum, over its
coordinates, of the variance of the estimate.

>>> weight = torch.nn.Linear(1, 1, bias=False)
>>> def noisy() -> None:
...     weight.weight.grad = torch.randn(1, 1)
>>> rows = measure(weight, {"noise": noisy}, repeats=200)
>>> [(row.layer, 0.8 < row.variance < 1.2) for row in rows]
[('weight', True), ('total', True)]
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ancestral.tools.study.table import TOTAL, layer_of

Estimate = Callable[[], object]
"""Runs the model once and leaves one gradient estimate in `.grad` of its parameters."""


@dataclass(frozen=True)
class VarianceRow:
    """The gradient variance of one estimator in one layer, in squared units of the gradient."""

    estimator: str
    layer: str
    coordinates: int
    repeats: int
    variance: float  # summed over the coordinates


class Moments:
    """Mean and summed squared deviations of a stream of vectors, in float64, by Welford's update.

    One pass with no cancellation, where E[g^2] - E[g]^2 would lose a variance that is small against
    the mean. Welford (1962), "Note on a method for calculating corrected sums of squares and
    products".
    """

    def __init__(self, coordinates: int) -> None:
        self.count = 0
        self.mean = torch.zeros(coordinates, dtype=torch.float64)
        self._squares = torch.zeros(coordinates, dtype=torch.float64)

    def add(self, sample: Tensor) -> None:
        """Take in one vector, [coordinates]."""
        self.count += 1
        before = sample - self.mean
        self.mean += before / self.count
        self._squares += before * (sample - self.mean)

    def variance(self) -> Tensor:
        """Return the unbiased variance of each coordinate, [coordinates]."""
        return self._squares / (self.count - 1)


def measure(
    model: nn.Module,
    estimators: Mapping[str, Estimate],
    repeats: int,
    warm_up: int = 0,
    seed: int = 0,
    tick: Callable[[], object] = lambda: None,
) -> list[VarianceRow]:
    """Return the gradient variance of each estimator, for each layer and in total.

    The parameters and torch's generator are left as they were; `.grad` is cleared.

    Args:
        model: whose parameters are differentiated.
        estimators: what leaves an estimate in `.grad`, by name.
        repeats: how many estimates the variance is taken over, at least two.
        warm_up: how many estimates go before and do not count, for a baseline that learns.
        seed: decides the draws, the same for every estimator.
        tick: called after each repeat, to show progress.

    Raises:
        ValueError: if there are fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"a variance needs at least two repeats, got {repeats}; pass repeats=2")
    source = torch.Generator().manual_seed(seed)
    seeds = torch.randint(2**62, (warm_up + repeats,), generator=source).tolist()
    rows: list[VarianceRow] = []
    for name, estimate in estimators.items():
        moments = Moments(sum(p.numel() for p in model.parameters()))
        with torch.random.fork_rng(devices=[]):
            for index, draw in enumerate(seeds):
                gradient = _gradient(model, estimate, draw)
                if index >= warm_up:
                    moments.add(gradient)
                tick()
        rows += _rows(model, name, moments)
    model.zero_grad()
    return rows


def folds(rows: Sequence[VarianceRow], reference: str) -> dict[tuple[str, str], float]:
    """Return how many times lower each variance is than the reference's, by estimator and layer.

    >>> rows = [VarianceRow("a", "total", 3, 9, 6.0), VarianceRow("b", "total", 3, 9, 2.0)]
    >>> folds(rows, "a")
    {('a', 'total'): 1.0, ('b', 'total'): 3.0}
    """
    first = {row.layer: row.variance for row in rows if row.estimator == reference}
    return {(row.estimator, row.layer): first[row.layer] / row.variance for row in rows}


def _gradient(model: nn.Module, estimate: Estimate, seed: int) -> Tensor:
    """Return one estimate as a vector in float64; a parameter with no `.grad` counts as zero."""
    torch.manual_seed(seed)
    model.zero_grad()
    estimate()
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    return torch.cat([part.reshape(-1) for part in parts]).to("cpu", torch.float64)


def _rows(model: nn.Module, name: str, moments: Moments) -> list[VarianceRow]:
    """Sum the variance over the coordinates of each layer, and over all of them."""
    sizes = [p.numel() for p in model.parameters()]
    layers: dict[str, list[Tensor]] = {}
    parts = torch.split(moments.variance(), sizes)
    for (parameter, _), part in zip(model.named_parameters(), parts, strict=True):
        layers.setdefault(layer_of(parameter), []).append(part)
    groups = {layer: torch.cat(own) for layer, own in layers.items()}
    groups[TOTAL] = moments.variance()
    return [
        VarianceRow(name, layer, len(group), moments.count, float(group.sum()))
        for layer, group in groups.items()
    ]
