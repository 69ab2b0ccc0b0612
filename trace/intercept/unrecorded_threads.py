"""Unrecorded draws: those in a thread that takes no part in the recordings of others.

While any thread records, torch's random functions and distributions are replaced for all of them.
A draw with something to learn in a thread without a recording is noted as a draw apart, see
`ancestral.trace.context.other_threads`; to that thread, its value is data as before.
"""

import functools
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from contextvars import ContextVar, copy_context
from typing import Any, TypeVar

import torch
from torch import Tensor

from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.trace.context.other_threads import Apart, UnrecordedDrawError, lost_away
from ancestral.trace.context.patch import Patch
from ancestral.trace.context.place import place
from ancestral.trace.context.stack import local
from ancestral.trace.context.switch import Interceptor, joined
from ancestral.trace.recording.constant_draws import is_noise
from ancestral.trace.recording.message import unhandled
from ancestral.trace.recording.trace import Trace

T = TypeVar("T")

working_for: ContextVar[ExitStack | None] = ContextVar("working for", default=None)
"""The function that ends the work that this process does for a recording of another, if any."""


def unrecorded(
    given: Callable[[], Iterable[Tensor]], draw: Callable[[], T], drawn: Callable[[], T]
) -> T:
    """Return a draw in a thread without a recording, marked if there is something to learn.

    Args:
        given: returns the parameters.
        draw: draws as if nobody recorded.
        drawn: draws in the recording that is open then.

    Raises:
        UnrecordedDrawError: if this process works for a recording of another.
    """
    if local.is_inside or is_noise(given()):
        return draw()
    return copy_context().run(_alone, drawn)


def refuse_away(name: str, given: Iterable[Tensor]) -> None:
    """Raise if this process works for a recording of another, and a draw has something to learn."""
    if working_for.get() is not None and not is_noise(given):
        raise UnrecordedDrawError(lost_away(name, place().location))


def _alone(call: Callable[[], T]) -> T:
    """Return a draw, recorded in a trace of which nothing stays but what was drawn where."""
    trace = Trace()
    unhandled()
    trace.is_open = True
    local.push(trace)
    try:
        with joined():
            value = call()
    finally:
        trace.is_open = False
    trace.universe.become("apart")
    for node in trace.everything:
        if working_for.get() is not None:
            raise UnrecordedDrawError(lost_away(node.name, node.location))
        thread = threading.current_thread().name
        trace.universe.owner = Apart(
            node.name, node.location, thread, is_reparameterized=node.is_reparameterized
        )
    return value


def _drawing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def drawn(*args: Any, **kwargs: Any) -> Any:
        if not local.traces:
            draw = functools.partial(original, *args, **kwargs)
            return unrecorded(lambda: tensors_in(args, kwargs), draw, draw)
        if local.recordings:
            return original(*args, **kwargs)
        with joined():  # of a context that was entered by hand
            return original(*args, **kwargs)

    return drawn


class Unrecorded(Interceptor):
    """Meets torch's random functions in threads whose dispatcher is not watched."""

    def patches(self) -> Iterable[Patch]:
        """Return them, and the methods that do the same."""
        for name in ("bernoulli", "binomial", "multinomial", "normal", "poisson"):
            yield Patch(torch, name, _drawing)
        for name in ("bernoulli", "bernoulli_", "multinomial"):
            yield Patch(Tensor, name, _drawing)
