"""Randomness: whether a block draws random numbers that no site of it accounts for."""

import random
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch

from ancestral.trace.request import Handler, Request


class Watch(Handler):
    """Looks whether random numbers are drawn between the statements of a block.

    The generators of torch, of numpy and of Python are looked at where a statement begins and where
    it has been answered: what moved in between was drawn by nobody who says so.

    >>> with Watch() as watch:
    ...     x = torch.rand(2)
    >>> watch.has_drawn
    True
    """

    def __init__(self) -> None:
        """Have seen nothing."""
        self.has_drawn = False
        self._before: Any = None

    def __enter__(self) -> Self:
        """Begin to look."""
        self._before = _states()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Look a last time."""
        super().__exit__(kind, error, traceback)
        self._look()

    def ask(self, request: Request) -> Request:
        """Look before a statement."""
        self._look()
        return request

    def answered(self, request: Request) -> None:
        """Go on from after it: what it has drawn is its own."""
        self._before = _states()

    def _look(self) -> None:
        self.has_drawn = self.has_drawn or _states() != self._before


def _states() -> tuple[Any, ...]:
    """Return what the generators of this process stand at."""
    torchs = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        torchs.extend(torch.cuda.get_rng_state_all())
    numpys: Any = np.random.get_state()
    return (
        *(state.numpy().tobytes() for state in torchs),
        (numpys[1].tobytes(), *numpys[2:]),
        random.getstate(),
    )
