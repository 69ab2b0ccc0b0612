"""Shared memory: a write into one tensor, as all tensors see it that share its memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.provenance import Provenance, union
from ancestral.provenance.dispatch.escape import escape
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.linear_form import serials
from ancestral.provenance.tensor.memory_grid import Write, base_of, read, view_of, write_of
from ancestral.provenance.tensor.tensor import attach, provenance, raw


def mark_shared(target: Tensor, found: Provenance, before: Provenance | None) -> None:
    """Give its sources to all that shares the storage of what was written.

    `before` is what the target depended on until then.
    """
    if not raw(Tensor.numel, target):
        return
    is_held = raw(storage.is_held, target)  # before we hold it
    base, shared = base_of(target), raw(storage.storage_of, target)
    write = None if shared is None else _write(target, found, shared)
    if base is not None:
        known = provenance(base)
        seen = None if write is None else read(write.on(write.grid), view_of(base))
        now = found.lost(tuple(raw(Tensor.size, base))) if seen is None else seen
        now = now if known is None else known.union(now)
        note("a write into a view", now, [found] if known is None else [known, found])
        attach(base, now)
        base._form, base._written = None, next(serials)  # type: ignore[attr-defined]
    if shared is not None:
        storage.taint(shared, found, 1 if base is None else 2, is_held, write)
        is_new = before is None or before.universe is not found.universe
        if not shared.resizable() and (is_new or found.members - before.members):  # type: ignore[union-attr]
            escape([found])  # of memory that an array of numpy, or another library, reads as well


def _write(target: Tensor, found: Provenance, shared: torch.UntypedStorage) -> Write | None:
    """Return a write with what decided where it is; None where its memory does not tell."""
    shape = tuple(raw(Tensor.size, target))
    write = write_of(found if found.shape == shape else found.lost(shape), target, shared)
    chosen = getattr(target, "_chosen", None)
    decisions = [source for source in found.members if source.is_decision]
    if write is None or (chosen is None and not decisions):
        return write
    parts = [] if chosen is None else [chosen]
    parts += [found.universe.depending(decisions, ())] if decisions else []
    return write._replace(chosen_by=union(parts))


CHOOSING = frozenset({Tensor.__getitem__, Tensor.select, torch.select, Tensor.narrow, torch.narrow})
"""The functions that may be given a place in a tensor, a number that is tracked."""


def note_chosen(func: Callable[..., Any], result: Tensor, args: Any, kwargs: Any) -> None:
    """Note of a view what decided which part of the memory it is."""
    known = (getattr(tensor, "_chosen", None) for tensor in tensors_in(args, kwargs))
    found: list[Provenance] = [each for each in known if each is not None]
    if func in CHOOSING:
        given = (provenance(t) for t in tensors_in(args[1:], kwargs))
        found += [each.lost(()) for each in given if each is not None]
    if found:
        result._chosen = union(found)  # type: ignore[attr-defined]
