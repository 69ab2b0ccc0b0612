"""Rows: the lines of the table of benchmarks, and how the times in it are compared.

>>> Row("a step", 2.5, 2.0).cells()
('a step', '2.5', 'at most 2  MISSED')
"""

import math
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
            best[index] = min(best[index], timeit.timeit(step, number=number))
    return [time / best[0] for time in best]
