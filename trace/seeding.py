"""Seeding: draws from a stream of random numbers of one's own."""

from types import TracebackType
from typing import Self

import torch

from ancestral.trace.arguments import kind_of
from ancestral.trace.request import Handler


class seed(Handler):  # noqa: N801 (used as a verb: with seed(0): ...)
    """Draw all that a block draws from a generator of its own.

    The draws of torch itself, of ``randn`` and dropout, are among them. The generator goes on from
    block to block; torch's own goes on after each as if nothing had been drawn.

    Args:
        generator: a generator of the CPU, or the seed of one.

    Raises:
        TypeError: if it is neither, or a generator of another device.
        ValueError: if a seed has more than 64 bits.
    """

    def __init__(self, generator: torch.Generator | int) -> None:
        """Take the generator."""
        if isinstance(generator, int) and not isinstance(generator, bool):
            if not -(2**63) <= generator < 2**64:
                raise ValueError(f"seed takes an int of 64 bits, not {generator}")
            generator = torch.Generator().manual_seed(generator)
        if not isinstance(generator, torch.Generator):
            found = kind_of(generator)
            raise TypeError(f"seed takes an int, or a torch.Generator of the CPU, not {found}")
        if generator.device.type != "cpu":
            found = f"one of {generator.device}"
            raise TypeError(f"seed takes an int, or a torch.Generator of the CPU, not {found}")
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
