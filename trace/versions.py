"""Versions: how often what a density is asked of later has been written into in place.

A density is lazy. Where a parameter is written into before it is asked for, or a value that shares
memory with what the program goes on with, it would be that of something else.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ancestral.provenance.linear import version_of
from ancestral.trace.parameters import UNKNOWN

Versions = tuple[tuple[Tensor, int], ...]


def versions_of(held: Iterable[tuple[Tensor, int]], shared: Tensor | None = None) -> Versions:
    """Return the parameters of a site, and its value, with their versions.

    What a class of the user holds for itself is left out, unless it is a leaf that is learned: the
    statistics of a module are written into at every call.

    Args:
        held: the parameters of its distribution.
        shared: its value, unless it is a copy that nobody else has.
    """
    with torch._C.DisableTorchFunction():
        asked = [t for t, event in held if event != UNKNOWN or (t.is_leaf and t.requires_grad)]
        if shared is not None:
            asked.append(shared)
        # Of a tensor of inference, nobody counts the writes.
        return tuple([(t, version) for t in asked if (version := version_of(t)) != -1])


def are_written(versions: Versions) -> bool:
    """Return whether any tensor was written into since its version was noted."""
    with torch._C.DisableTorchFunction():
        return any([tensor._version != version for tensor, version in versions])


def is_written(versions: Versions, value: Tensor) -> bool:
    """Return whether a value was written into since its version was noted."""
    return any(t is value and version_of(t) != version for t, version in versions)
