"""Versions: counts of in-place writes to the tensors that a density needs later.

A density is lazy. Where a parameter is written into before it is asked for, or a value that shares
memory with what the program goes on with, it would be that of something else. Torch counts writes
in place, but not those by ``.data`` or an array of numpy: once a recording has ended, what leaves
hold is compared too.
"""

from collections.abc import Iterable
from ctypes import string_at
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.provenance.tensor.tensor import ProvenanceTensor
from ancestral.provenance.tensor.torch_internals import DisableTorchFunction, detach, read_version
from ancestral.trace.nodes.distribution_params import UNKNOWN

Versions = tuple[Any, ...]
"""Tensors, each followed by how often it had been written into: flat, since every draw has some,
and Python's collector walks over each tuple that holds a tensor."""


def versions_of(held: Iterable[tuple[Tensor, int]], shared: Tensor | None = None) -> Versions:
    """Return the parameters of a site, and its value, with their versions.

    What a class of the user holds for itself is left out, unless it is a leaf that is learned: the
    statistics of a module are written into at every call.

    Args:
        held: the parameters of its distribution.
        shared: its value, unless it is a copy that nobody else has.
    """
    found: list[Any] = []
    with DisableTorchFunction():
        for tensor, event in held if shared is None else (*held, (shared, 0)):
            if event == UNKNOWN and not (tensor.is_leaf and tensor.requires_grad):
                continue
            try:
                found += tensor, read_version(tensor)
            except RuntimeError:  # of an inference tensor nobody counts the writes
                continue
    return tuple(found)


def are_written(versions: Versions) -> bool:
    """Return whether any tensor was written into since its version was noted."""
    with DisableTorchFunction():
        for tensor, version in zip(versions[::2], versions[1::2], strict=True):
            if tensor._version != version:
                return True
    return False


def versioned(versions: Versions) -> tuple[Tensor, ...]:
    """Return the tensors whose versions were noted."""
    return versions[::2]


def is_written(versions: Versions, value: Tensor) -> bool:
    """Return whether a value was written into since its version was noted."""
    for tensor, version in zip(versions[::2], versions[1::2], strict=True):
        if tensor is value and are_written((tensor, version)):
            return True
    return False


Leaf = tuple[Tensor, int, bytes | Tensor | None]
"""A leaf, how often it had been written into, and what it held."""

_MOST = 4096  # bytes
_OF_TORCH = (Tensor, nn.Parameter, ProvenanceTensor)


def held_by(leaf: Tensor) -> Leaf:
    """Return a leaf with what it holds now, where no function of torch is followed."""
    return leaf, leaf._version, _held(leaf)


def is_written_unseen(leaf: Leaf) -> bool:
    """Return whether a leaf was written into since, though torch counts no write."""
    tensor, version, known = leaf
    with DisableTorchFunction():
        if known is None or tensor._version != version:
            return False
        now = _held(tensor)
        if isinstance(now, Tensor) and isinstance(known, Tensor):
            return now.shape != known.shape or not torch.equal(now, known.to(now.device))
        return bool(now.__class__ is not known.__class__ or now != known)


def _held(leaf: Tensor) -> bytes | Tensor | None:
    """Return what a leaf holds, of a large one the beginning; None where it has no memory."""
    try:
        if leaf.is_cpu and leaf.is_contiguous():
            address = leaf.data_ptr()
            return string_at(address, min(leaf.nbytes, _MOST)) if address else None
    except RuntimeError:  # sparse, or wrapped by a transform of torch
        return None
    if leaf.is_meta or leaf.layout is not torch.strided or type(leaf) not in _OF_TORCH:
        return None
    return detach(leaf).flatten()[:_MOST].clone()


def forget_forms(versions: Versions) -> None:
    """Forget how parameters were made of others, which only losses yet to come can ask for."""
    for tensor in versioned(versions):
        if type(tensor) is ProvenanceTensor and tensor._form is not None:
            tensor._form = None
