"""Readings: the numbers that torch takes out of tracked tensors in C++ while it runs an op.

They may decide the shape of a result, which Python can read. Whoever meets the numbers notes them
here, and the op that was run looks whether there are any.
"""

import threading
from typing import Any

from ancestral.provenance.algebra.provenance import Provenance

# Functions whose numbers become values, or a place to read them at, and no shape.
_OF_VALUES = frozenset(
    """
    __getitem__ __setitem__ add addbmm addcdiv addcmul addmm addmv addr baddbmm celu clamp clip
    dropout elu fake_quantize_per_tensor_affine fill full_like hardshrink hardtanh index_add
    index_copy index_fill layer_norm leaky_relu lerp masked_fill mul pow __pow__ __rpow__
    float_power quantize_per_tensor roll rsub select select_scatter softplus softshrink sub
    threshold _threshold where
    """.split()
)


class _Local(threading.local):
    def __init__(self) -> None:
        self.found: list[Provenance] = []
        # Whether a function that is not followed has read a number, or made a shape of values.
        self.is_decided = False


local = _Local()


def note(found: Provenance) -> None:
    """Note that the number in a tensor of this provenance was read."""
    local.found.append(found)


def take(func: Any) -> list[Provenance]:
    """Return what was read while a function ran and may have decided a shape; forget it."""
    found, local.found = local.found, []
    return [] if func.__name__.split(".")[0].rstrip("_") in VALUES else found


VALUES = frozenset(name.rstrip("_") for name in _OF_VALUES)
