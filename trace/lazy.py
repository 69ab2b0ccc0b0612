"""Lazy attributes: what an object computes at first use, and keeps for later ones.

Computed with tracking off it would be kept without provenance, for whoever asks for it later. So
tracking is off only where all that is kept is known, and can be forgotten again: in classes of
torch. All others, which may keep what they like where they like, are run with tracking on.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform

from ancestral.provenance.algebra import Source
from ancestral.provenance.propagation import mark_lost
from ancestral.provenance.tensor import alias, raw, untrack
from ancestral.trace.parameters import declares_all, factorized, is_of_torch, parts_of


def plainly(owner: Any, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the plain result of a method of a distribution, or of a constraint.

    What the owner keeps of the call is no plain tensor that others would take for a constant.
    """
    if is_of_torch(owner):
        with _unchanged(owner):
            return raw(method, *args, **kwargs)
    result = method(*args, **kwargs)
    return untrack(result) if isinstance(result, Tensor) else result


@contextmanager
def _unchanged(owner: Any) -> Generator[None]:
    """Put back at the end of the block the attributes of an object, and of those within it."""
    before = [(vars(part), vars(part).copy()) for part in parts_of(owner)]
    try:
        yield
    finally:
        for attributes, known in before:
            for name in attributes.keys() - known.keys():
                del attributes[name]
            for name, item in known.items():
                if attributes.get(name) is not item:
                    attributes[name] = item


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
    try:
        with torch.no_grad(), _unchanged(part):
            raw(part.inv, alias(value))
    except (KeyError, NotImplementedError):
        return False
    return True
