"""Compiled steps, beside the estimator by hand under `torch.compile`: forward and backward.

Both are compiled by inductor. Those by hand have the credit of each element from the known graph,
no baseline, and nothing that the model does not need.
"""

import statistics
import time
from collections.abc import Iterator

import torch
from torch.distributions import Distribution

from ancestral.estimators.compiled.compile import compile as compiled
from ancestral.tools.bench.chain import Chain, pyro_chain
from ancestral.tools.bench.rows import Row, ratios, repeated, wait
from ancestral.tools.bench.steps import MODELS, Loss, Model

ROUNDS = 600


def compiled_rows(mode: str | None = None) -> Iterator[Row]:
    """Measure each model: the median of interleaved steps to that by hand, and the fastest.

    Args:
        mode: of the compiler, for both.
    """
    how = "compiled" if mode is None else f"compiled by {mode}"
    before = Distribution._validate_args
    for words, (make, _, _) in MODELS.items():
        torch.manual_seed(0)
        torch.compiler.reset()
        model = make()
        step = compiled(model.loss, baseline=None, mode=mode)
        began = time.perf_counter()
        step(model.x)
        seconds = time.perf_counter() - began
        Distribution.set_default_validate_args(False)  # by hand, the compiler needs it
        by_hand = torch.compile(model.by_hand, fullgraph=True, mode=mode)
        fastest, median = _ratios(model, step, by_hand)
        Distribution.set_default_validate_args(before)
        yield Row(f"{how} step, {words}, median to by hand {how}", median, 1.02)
        yield Row("  the fastest", fastest)
        yield Row("  first call, seconds", seconds)


def _ratios(model: Model, step: Loss, by_hand: Loss) -> tuple[float, float]:
    times: tuple[list[float], list[float]] = ([], [])

    def run(function: Loss) -> float:
        for parameter in model.parameters:
            parameter.grad = None
        began = time.perf_counter()
        function(model.x).backward()
        wait()
        return time.perf_counter() - began

    for turn in range(ROUNDS + 10):
        pairs = list(zip((step, by_hand), times, strict=True))
        for function, found in pairs if turn % 2 else pairs[::-1]:
            seconds = run(function)
            if turn >= 10:
                found.append(seconds)
    ours, theirs = times
    return min(ours) / min(theirs), statistics.median(ours) / statistics.median(theirs)


def pyro_rows(length: int = 100) -> Iterator[Row]:
    """Measure a step of a chain by Pyro's TraceGraph_ELBO, as a ratio to a compiled step of it."""
    coins = Chain(length)
    torch.compiler.reset()
    step = compiled(coins.model, baseline=None)
    start = torch.zeros(())
    theirs = repeated(lambda: step(start).backward(), 20)
    ratio = ratios([theirs, pyro_chain(length)], 1, rounds=5)[1] * 20
    yield Row(f"chain of {length} sites, a compiled step, to Pyro's", 1 / ratio, 1 / 1000)
