"""Lazy attributes: what an object computes at first use, and keeps for later ones.

Computed with tracking off it would be kept without provenance, for whoever asks for it later. So
tracking is off only where all that is kept is known, and can be forgotten again: in classes of
torch. All others, which may keep what they like where they like, are run with tracking on.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform

from ancestral.provenance.algebra import Source
from ancestral.provenance.propagation import mark_lost
from ancestral.provenance.tensor import alias, raw, untrack
from ancestral.trace.parameters import are_of_torch, declares_all, factorized, is_of_torch, parts_of


def plainly(owner: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the plain result of a method of a distribution, or of a constraint.

    What the owner keeps of the call is no plain tensor that others would take for a constant.
    """
    parts = list(parts_of(owner))
    if are_of_torch(parts):
        before = [vars(part).copy() for part in parts]
        try:
            return raw(method, *args, **kwargs)
        finally:
            _restore(parts, before)
    result = method(*args, **kwargs)
    return untrack(result) if isinstance(result, Tensor) else result


def _restore(parts: Sequence[Any], before: Sequence[dict[str, Any]]) -> None:
    """Give objects the attributes that they had."""
    for part, known in zip(parts, before, strict=True):
        attributes = vars(part)
        # Distributions of torch add what is lazy; transforms exchange what they keep.
        if len(attributes) != len(known):
            for name in attributes.keys() - known.keys():
                del attributes[name]
        if isinstance(part, Transform):
            attributes.update(known)


def forget_noise(fn: Distribution, drawn: Tensor, source: Source, *, is_pathwise: bool) -> None:
    """Let transforms with a cache forget what a draw was made of.

    They would give it for the inverse of the draw, as if it depended neither on the draw nor, while
    that is held fixed, on their parameters. One that has no other inverse keeps that of a draw with
    a pathwise gradient, which flows through it; it depends on the source.
    """
    if declares_all(factorized(fn)):
        return
    assert source.universe is not None
    kept = list(vars(drawn).values())
    for part in parts_of(fn):
        if isinstance(part, Transform) and getattr(part, "_cache_size", 0) > 0:
            if not is_pathwise or _has_inverse(part):
                part._cached_x_y = None, None
            else:
                kept.extend(part._cached_x_y)
    own = source.universe.of(source, source.shape)
    mark_lost([t for t in kept if isinstance(t, Tensor) and t is not drawn], [own])


def _has_inverse(part: Transform) -> bool:
    """Return whether a transform can invert a value that it has not kept."""
    _, value = part._cached_x_y
    if value is None or is_of_torch(part):
        return True
    parts = list(parts_of(part))
    before = [vars(each).copy() for each in parts]
    try:
        with torch.no_grad():
            raw(part.inv, alias(value))
    except (KeyError, NotImplementedError):
        return False
    finally:
        _restore(parts, before)
    return True
