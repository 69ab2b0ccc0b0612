"""Benchmarks of baselines: how little variance they leave, and what the default adds to a step."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from ancestral.estimators.baselines.optimal import Optimal
from ancestral.estimators.baselines.running_mean import RunningMean
from ancestral.estimators.gradient.surrogate import backward
from ancestral.tools.bench.rows import Row
from ancestral.trace.recording.record import record

BEST_CONSTANT = 0.04218
"""The variance with the best constant for each site, on the chain of ten coins, by enumeration."""


def coin_rows(steps: int = 500) -> list[Row]:
    """Return exact variances on a chain of ten coins, and on one coin, after some steps."""
    from models.coins import chain, trained, variance

    running = variance(trained(RunningMean(), chain, steps), chain)
    optimal = variance(trained(Optimal(), chain, steps), chain)
    alone = variance(trained(Optimal(), _coin, steps), _coin)
    return [
        Row("chain of ten coins, variance without a baseline", variance(None, chain)),
        Row(f"  RunningMean after {steps} steps / the best constants", running / BEST_CONSTANT),
        Row(f"  Optimal after {steps} steps / the best constants", optimal / BEST_CONSTANT, 1.02),
        Row("one coin, variance with Optimal / without", alone / variance(None, _coin), 1e-3),
    ]


def _coin(theta: Any) -> Any:
    from models.coins import chain

    return chain(theta, 1)


def cost_rows(rounds: int = 60) -> list[Row]:
    """Return what the default baseline adds to a step, the median of interleaved rounds."""
    from models import REFERENCES
    from models.reference import seeded

    rows = []
    for reference in REFERENCES.values():
        setting = seeded(reference.usual)
        ratio = _ratio(partial(setting.model, *setting.batch), rounds)
        rows.append(Row(f"the default baseline / none, a step, {reference.words}", ratio, 1.05))
    return rows


def _ratio(loss_of: Callable[[], Any], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        times = []
        for baseline in ("auto", None):
            start = time.perf_counter()
            with record():
                loss = loss_of()
            backward(loss, baseline=baseline)
            times.append(time.perf_counter() - start)
        found.append(times[0] / times[1])
    return median(found)
