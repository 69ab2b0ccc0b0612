"""Seeding: draws from a stream of random numbers of one's own."""

from types import TracebackType
from typing import Self

import torch

from ancestral.trace.request import Handler


class seed(Handler):  # noqa: N801 (used as a verb: with seed(0): ...)
    """Draw all that a block draws from a generator of its own.

    The draws of torch itself, of ``randn`` and dropout, are among them. The generator goes on from
    block to block; torch's own goes on after each as if nothing had been drawn.

    Args:
        generator: the seed of a generator for each device, the GPUs among them; or a generator, for
            what is drawn on its device.

    Raises:
        TypeError: if it is neither, or a generator of a device that torch has none of its own for.
    """

    def __init__(self, generator: torch.Generator | int) -> None:
        """Take the generator."""
        if isinstance(generator, bool) or not isinstance(generator, (int, torch.Generator)):
            raise TypeError(f"seed takes an int, or a torch.Generator, not {generator!r}")
        self.generators = (
            tuple(torch.Generator(device).manual_seed(generator) for device in _devices())
            if isinstance(generator, int)
            else (generator,)
        )
        for each in self.generators:
            _torchs_own(each.device)
        self._outer: list[list[torch.Tensor]] = []

    def __enter__(self) -> Self:
        """Go over to the generators."""
        self._outer.append([_torchs_own(each.device).get_state() for each in self.generators])
        for each in self.generators:
            _torchs_own(each.device).set_state(each.get_state())
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Go back to those of torch."""
        super().__exit__(kind, error, traceback)
        for each, outer in zip(self.generators, self._outer.pop(), strict=True):
            own = _torchs_own(each.device)
            each.set_state(own.get_state())
            own.set_state(outer)


def _devices() -> list[torch.device]:
    """Return the devices that torch draws on, in this process."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if torch.cuda._is_in_bad_fork():  # a child of a process that uses the GPUs cannot
        gpus = 0
    return [torch.device("cpu"), *(torch.device("cuda", index) for index in range(gpus))]


def _torchs_own(device: torch.device) -> torch.Generator:
    """Return the generator that torch draws from on a device.

    Raises:
        TypeError: if it has none there.
    """
    if device.type == "cpu":
        return torch.default_generator
    if device.type == "cuda":
        torch.cuda.init()
        return torch.cuda.default_generators[device.index or 0]
    raise TypeError(f"seed takes a generator of the CPU or of a GPU by CUDA, not one of {device}")
