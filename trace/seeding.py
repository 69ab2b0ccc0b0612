"""Seeding: draws from a stream of random numbers of one's own."""

from types import TracebackType
from typing import NamedTuple, Self

import torch
from torch import Tensor

from ancestral.trace.arguments import kind_of
from ancestral.trace.request import Handler, handlers


class seed(Handler):  # noqa: N801 (used as a verb: with seed(0): ...)
    """Draw all that a block draws from a generator of its own.

    The draws of torch itself, of ``randn`` and dropout, are among them, and those on CUDA once that
    is in use, whose generators this one seeds. The generator goes on from block to block; torch's
    own goes on after each as if nothing had been drawn. It belongs to the process: threads that
    draw at the same time draw from one stream, in an order that may change.

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
        self._outer: list[_States] = []
        self._devices: list[Tensor] = []  # the states of what is drawn on CUDA

    def __enter__(self) -> Self:
        """Go over to the generator."""
        outer = _innermost()
        if outer is not None:  # which may be this one: its stream goes on
            outer._keep()
        self._outer.append(_States.now())
        self._states().go()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Go back to that of the block around, or of torch."""
        super().__exit__(kind, error, traceback)
        self._keep()
        before, outer = self._outer.pop(), _innermost()
        (before if outer is None else outer._states()).go()

    def _keep(self) -> None:
        """Note how far the stream has come."""
        now = _States.now()
        self.generator.set_state(now.host)
        self._devices = now.devices

    def _states(self) -> "_States":
        """Return where the stream is, on CUDA too once that is in use."""
        host = self.generator.get_state()
        if not self._devices and torch.cuda.is_initialized():
            # A number of the stream, which stays where it is: the CPU draws the same either way.
            number = int(torch.randint(2**62, (), generator=torch.Generator().set_state(host)))
            fresh = (torch.Generator(f"cuda:{i}") for i in range(torch.cuda.device_count()))
            self._devices = [each.manual_seed(number).get_state() for each in fresh]
        return _States(host, self._devices)


class _States(NamedTuple):
    """Where the generators of torch are: that of the CPU, and those of CUDA once it is in use."""

    host: Tensor
    devices: list[Tensor]

    @classmethod
    def now(cls) -> Self:
        """Return where they are."""
        in_use = torch.cuda.is_initialized()
        return cls(torch.get_rng_state(), torch.cuda.get_rng_state_all() if in_use else [])

    def go(self) -> None:
        """Let them be here."""
        torch.set_rng_state(self.host)
        if self.devices:
            torch.cuda.set_rng_state_all(self.devices)


def _innermost() -> seed | None:
    return next((handler for handler in reversed(handlers()) if isinstance(handler, seed)), None)
