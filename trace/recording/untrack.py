"""Untrack: a tensor without provenance, on the user's word that nothing depends on it.

Who has to prove that nothing does can listen.

>>> import torch
>>> from ancestral.trace.recording.record import record, track
>>> seen = []
>>> with record(), listening(seen.append):
...     plain = untrack(track(torch.ones(2), "x"))
>>> [source.name for source in seen[0].provenance.sources]
['x']
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.tensor import tensor as tensors
from ancestral.trace.context.place import Location, place


@dataclass(frozen=True)
class Untracked:
    """What was hidden, and where."""

    provenance: Provenance
    location: Location


_Listener = Callable[[Untracked], None]
_listeners: "ContextVar[tuple[_Listener, ...]]" = ContextVar("listeners", default=())


def untrack(tensor: Tensor) -> Tensor:
    """Return `tensor` without provenance: the same data, the same autograd history."""
    if _listeners.get():
        found = tensors.provenance(tensor)
        if found is not None:
            for listener in _listeners.get():
                listener(Untracked(found, place().location))
    return tensors.untrack(tensor)


@contextmanager
def listening(listener: _Listener) -> Generator[None]:
    """Tell the listener of all that is hidden within the block."""
    token = _listeners.set((*_listeners.get(), listener))
    try:
        yield
    finally:
        _listeners.reset(token)
