"""RNG guard: a check that a block draws no random numbers outside its sites."""

import random
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from ancestral.trace.recording.message import Handler, Message


class Watch(Handler):
    """Looks whether random numbers are drawn between the statements of a block.

    The generators of torch, of numpy and of Python are looked at where a statement begins and where
    it has been answered: what moved in between was drawn by nobody who says so. What is drawn by
    torch with its own generator shows by that. Other generators of numpy, or of Python, are
    not seen.

    >>> with Watch() as watch:
    ...     x = torch.rand(2)
    >>> watch.has_drawn
    True
    """

    def __init__(self) -> None:
        """Have seen nothing."""
        self.has_drawn = False
        self.is_answering = False
        self._before: Any = None
        self._calls: Any = _Calls(self)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._before = _states()
        self._calls.__enter__()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Look a last time."""
        super().__exit__(kind, error, traceback)
        self._calls.__exit__(kind, error, traceback)
        self._look()

    def process(self, message: Message) -> Message:
        """Look before a statement."""
        self._look()
        self.is_answering = True
        return message

    def postprocess(self, message: Message) -> None:
        """Go on from after it: what it has drawn is its own."""
        self.is_answering = False
        self._before = _states()

    def _look(self) -> None:
        self.has_drawn = self.has_drawn or _states() != self._before


class _Calls(TorchFunctionMode):
    """Sees the functions of torch that are given a generator."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = {} if kwargs is None else kwargs
        if given.get("generator") is not None and not self._watch.is_answering:
            self._watch.has_drawn = True
        return func(*args, **given)


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
