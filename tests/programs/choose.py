"""Choices: where a random program gets them from, hypothesis or a random generator."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Choose:
    """Makes choices."""

    def __init__(self, below: Callable[[int], int]) -> None:
        """Take a function that returns a number below the one it is given."""
        self.below = below

    def among(self, options: Sequence[T]) -> T:
        """Return one of these."""
        return options[self.below(len(options))]


def by_hypothesis(draw: st.DrawFn) -> Choose:
    """Return choices that hypothesis makes, and makes simpler where a test fails."""
    return Choose(lambda bound: draw(st.integers(0, bound - 1)))
