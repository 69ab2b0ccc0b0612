"""RNG guard: a check that no random numbers are drawn in a block whose sites are all given values.

>>> with watching() as guard:
...     x = torch.rand(2)
>>> guard.has_drawn
True
"""

import random
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ancestral.trace.recording.message import Handler, Message


class Guard(Handler):
    """Looks whether a generator of torch, of numpy or of Python moves.

    What is drawn by torch with its own generator shows by that. Other generators of numpy, or of
    Python, are not seen.
    """

    def __init__(self) -> None:
        self.has_drawn = False
        self._torchs, self._others = _of_torch(), _of_others()

    def process(self, message: Message) -> Message:
        """Look before a statement."""
        self.look()
        return message

    def look(self) -> None:
        """Note whether a generator has moved."""
        self.look_at_torch()
        self.has_drawn = self.has_drawn or _of_others() != self._others

    def look_at_torch(self) -> None:
        """Note whether one of torch has."""
        self.has_drawn = self.has_drawn or _of_torch() != self._torchs


class _Calls(TorchFunctionMode):
    """Lets a guard look after each function of torch: later a generator may be set back."""

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self._guard = guard

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {} if kwargs is None else kwargs
        found = func(*args, **given)
        self._guard.has_drawn = self._guard.has_drawn or given.get("generator") is not None
        self._guard.look_at_torch()
        return found


@contextmanager
def watching() -> Generator[Guard]:
    """Give a guard that looks at the block until its end."""
    calls: Any = _Calls(guard := Guard())  # torch does not annotate that it can be entered
    with calls, guard:
        yield guard
    guard.look()


def _of_torch() -> list[bytes]:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states.extend(torch.cuda.get_rng_state_all())
    return [state.numpy().tobytes() for state in states]


def _of_others() -> tuple[Any, ...]:
    numpys: Any = np.random.get_state()
    return numpys[1].tobytes(), *numpys[2:], random.getstate()
