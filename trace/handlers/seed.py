"""Seed: draws of a block from a separate random stream."""

from typing import Self

import torch
from torch import Tensor

from ancestral.provenance.tensor.torch_internals import is_in_bad_fork
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.recording.message import Handler, Raised, handlers


class seed(Handler):  # noqa: N801 (used as a verb: with seed(0): ...)
    """Draw all that a block draws from its own generator.

    The draws of torch itself, of ``randn`` and dropout, are among them. The generator goes on from
    block to block; torch's own goes on after each as if nothing had been drawn. It belongs to the
    process: threads that draw at the same time draw from one stream, in an order that may change.

    Args:
        generator: the seed of a generator for each device, the GPUs among them; or a generator, for
            what is drawn on its device.

    Raises:
        TypeError: if it is neither, or a generator of a device that torch has none for.
        ValueError: if a seed has more than 64 bits.
    """

    def __init__(self, generator: torch.Generator | int) -> None:
        if isinstance(generator, bool) or not isinstance(generator, (int, torch.Generator)):
            raise TypeError(f"seed takes an int, or a torch.Generator, not {kind_of(generator)}")
        if isinstance(generator, int) and not -(2**63) <= generator < 2**64:
            raise ValueError(f"seed takes an int of 64 bits, not {short(generator)}")
        self.generator = generator
        self._generators = (
            [torch.Generator(device).manual_seed(generator) for device in _devices()]
            if isinstance(generator, int)
            else [generator]
        )
        for each in self._generators:
            _torchs_own(each.device)
        self._outer: list[list[Tensor]] = []

    def __enter__(self) -> Self:
        """Go over to the generators."""
        outer = _innermost()
        if outer is not None:  # which may be this one: its stream goes on
            outer._keep()
        self._outer.append([_torchs_own(each.device).get_state() for each in self._generators])
        self._go()
        return super().__enter__()

    def __exit__(self, *raised: *Raised) -> None:
        """Go back to those of the block around, or of torch."""
        super().__exit__(*raised)
        outer = _innermost()
        self._keep()
        if outer is not None:  # what it draws on devices that are not ours went on
            outer._keep(but=[each.device for each in self._generators])
        for each, state in zip(self._generators, self._outer.pop(), strict=True):
            _torchs_own(each.device).set_state(state)
        if outer is not None:
            outer._go()

    def _keep(self, but: list[torch.device] | None = None) -> None:
        """Note how far the streams have come."""
        for each in self._generators:
            if each.device not in (but or ()):
                each.set_state(_torchs_own(each.device).get_state())

    def _go(self) -> None:
        """Let torch draw from here."""
        for each in self._generators:
            _torchs_own(each.device).set_state(each.get_state())


def _innermost() -> seed | None:
    return next((handler for handler in reversed(handlers()) if isinstance(handler, seed)), None)


def _devices() -> list[torch.device]:
    """Return the devices that torch draws on, in this process."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if is_in_bad_fork():  # a child of a process that uses the GPUs cannot
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
