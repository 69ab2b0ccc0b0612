"""Batch semantics: element b of a result depends on element b of the parameters only.

That is what a batch of distributions means, by whatever ops a class of torch computes a density, a
moment or a divergence; not all of those ops have a rule, and some merge the batch with events. Of
users' classes, which may do otherwise, only what the ops say is known.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Distribution

from ancestral.provenance.algebra.alignment import LOST, Shape
from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.refine import is_whole, sharpened
from ancestral.provenance.tensor.tensor import ProvenanceTensor, raw
from ancestral.trace.nodes.distribution_params import (
    Held,
    is_of_torch,
    over_batch,
    param_provenance,
)


def keep_of_density(fn: Distribution, value: object, density: object) -> None:
    """Let a density, or another number for each draw [*sample, *batch, *event], keep the batch."""
    if is_lossy(density) and isinstance(value, Tensor) and is_of_torch(fn):
        event = len(fn.event_shape)
        size = tuple(raw(Tensor.size, value))
        batch = size[: len(size) - event]
        if event <= len(size) and _shape_of(density) == _broadcast(batch, fn.batch_shape):
            _keep(density, fn, [*over_batch(fn), Held(value, event)], 0)


def keep_of_draw(fn: Distribution, result: object) -> None:
    """Let a number for each distribution [*batch], or each element of a draw, keep the batch."""
    if is_lossy(result) and is_of_torch(fn):
        shape = _shape_of(result)
        for event in {0, len(fn.event_shape)}:
            if shape == (*fn.batch_shape, *fn.event_shape[:event]):
                _keep(result, fn, over_batch(fn), event)


def keep_of_pair(p: Distribution, q: Distribution, result: object) -> None:
    """Let a number for each pair of two batches of distributions keep the batch."""
    if not is_lossy(result) or not is_of_torch((p, q)):
        return
    if _shape_of(result) == _broadcast(p.batch_shape, q.batch_shape):
        _keep(result, p, [*over_batch(p), *over_batch(q)], 0)


def is_lossy(result: object) -> bool:
    """Return whether a result is tracked and has lost a dimension of some source."""
    return isinstance(result, ProvenanceTensor) and not is_whole(result._provenance)


def _keep(result: object, fn: Distribution, held: Iterable[Held], event: int) -> None:
    """Claim for a result [*batch, *event] what each parameter shows over the batch."""
    assert isinstance(result, ProvenanceTensor)
    shape = _shape_of(result)
    batch = len(shape) - event
    claimed = param_provenance(fn, list(held), shape[:batch], None)
    if claimed is None:
        return
    known = result._provenance
    spread = claimed.remap(shape, (*range(batch), *(LOST,) * event))
    found = known if spread is None else sharpened(known, spread)
    if found is not known:
        note(type(fn).__name__, found, [known])
        result._provenance = found
        result._form = None  # its summands know less than they do together


def _shape_of(result: object) -> Shape:
    return tuple(raw(Tensor.size, result))


def _broadcast(a: Iterable[int], b: Iterable[int]) -> Shape | None:
    if a == b:
        return tuple(a)
    try:
        return tuple(torch.broadcast_shapes(tuple(a), tuple(b)))
    except RuntimeError:  # the class of the user, whose shapes mean something else
        return None
