"""Kinks: steps that have no useful derivative, so that a pathwise gradient through them is wrong.

The derivative of a step function is zero wherever it exists, and that of a result of integers or of
truth values does not exist. What is computed after such a step depends on more than its gradient
tells. ``detach`` and ``no_grad`` are no kinks: who cuts a gradient means it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

_NAMES = """
    angle ceil copysign fix floor floor_divide fmod frac hardshrink heaviside histc histogram
    histogramdd mode nextafter remainder round sgn sign threshold trunc bucketize searchsorted
    bincount unique unique_consecutive fake_quantize_per_tensor_affine
    fake_quantize_per_channel_affine __floordiv__ __rfloordiv__ __ifloordiv__ __mod__ __rmod__
    __imod__
"""
_ROUNDED = frozenset(
    getattr(space, name)
    for space in (torch, Tensor)
    for name in "div div_ divide divide_".split()
    if hasattr(space, name)
)

KINKS: frozenset[Callable[..., Any]] = frozenset(
    getattr(space, spelling)
    for space in (torch, Tensor, F, torch.special)
    for name in _NAMES.split()
    for spelling in (name, name + "_")
    if hasattr(space, spelling)
)
"""The functions whose results are floating, and whose derivatives are zero or not defined."""


def is_kink(func: Callable[..., Any], dtype: torch.dtype, kwargs: Any) -> bool:
    """Return whether a result of this type of a function has no useful derivative."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return True
    return func in KINKS or (func in _ROUNDED and kwargs.get("rounding_mode") is not None)
