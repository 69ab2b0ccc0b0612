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
        generator: a generator of the CPU, or the seed of one.

    Raises:
        TypeError: if it is neither, or a generator of another device.
    """

    def __init__(self, generator: torch.Generator | int) -> None:
        """Take the generator."""
        if isinstance(generator, int) and not isinstance(generator, bool):
            generator = torch.Generator().manual_seed(generator)
        if not isinstance(generator, torch.Generator) or generator.device.type != "cpu":
            raise TypeError(
                f"seed takes an int, or a torch.Generator of the CPU, not {generator!r}"
            )
        self.generator = generator
        self._outer: list[torch.Tensor] = []

    def __enter__(self) -> Self:
        """Go over to the generator."""
        self._outer.append(torch.get_rng_state())
        torch.set_rng_state(self.generator.get_state())
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Go back to that of torch."""
        super().__exit__(kind, error, traceback)
        self.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(self._outer.pop())
