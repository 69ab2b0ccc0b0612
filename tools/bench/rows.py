"""Rows: the lines of the table of benchmarks, and how the times in it are compared.

>>> Row("a step", 2.5, 2.0).cells()
('a step', '2.5', 'at most 2  MISSED')
"""

import math
import time
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure, and the bound that it must keep."""

    name: str
    figure: float
    bound: float | None = None

    @property
    def is_kept(self) -> bool:
        """Whether the figure keeps the bound; one that is no number does not."""
        return self.bound is None or self.figure <= self.bound

    def cells(self) -> tuple[str, str, str]:
        """Return the cells of the line."""
        if self.bound is None:
            return self.name, f"{self.figure:.3g}", ""
        kept = "" if self.is_kept else "  MISSED"
        return self.name, f"{self.figure:.3g}", f"at most {self.bound:.3g}{kept}"


def ratios(steps: Sequence[Step], number: int, rounds: int = 15) -> list[float]:
    """Return the times of the steps as ratios to the first, the fastest of interleaved rounds."""
    best = [math.inf] * len(steps)
    for step in steps:
        step()
    for _ in range(rounds):
        for index, step in enumerate(steps):
            began = time.perf_counter()
            timeit.timeit(step, number=number)
            wait()
            best[index] = min(best[index], time.perf_counter() - began)
    return [time / best[0] for time in best]


def repeated(step: Step, number: int) -> Step:
    """Return a number of steps one after the other: alone, a short one after a long one is cold."""

    def steps() -> None:
        for _ in range(number):
            step()

    return steps


def wait() -> None:
    """Wait for what a GPU was asked to compute, if one was."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def show(rows: Sequence[Row]) -> None:
    """Print a table."""
    width = max(len(row.name) for row in rows)
    for row in rows:
        name, figure, bound = row.cells()
        print(f"{name.ljust(width)}  {figure.rjust(9)}  {bound}".rstrip())
