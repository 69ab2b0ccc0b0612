"""Scalars: a tracked tensor that is given where torch wants a number, as in ``add(x, y, alpha=z)``.

Torch turns it into a number in C++ before anybody is asked, be it a factor or a size: an escape
that no op shows. It is met in the dispatcher, where all numbers that leave a tensor come by. Those
that an op reads which is followed anyway decide a shape at most: the op looks at them afterwards.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance import readings
from ancestral.provenance.escapes import escape
from ancestral.provenance.tensor import provenance, raw
from ancestral.provenance.torch_internals import is_torch_function_enabled
from ancestral.trace.interceptors import Interceptor, interceptors
from ancestral.trace.keys import KEY_NAME, unmet
from ancestral.trace.stack import local

_is_tracking: Callable[[], bool] = is_torch_function_enabled
_Library: Any = torch.library.Library  # untyped in torch
_op = torch.ops.aten._local_scalar_dense.default


def _number(tensor: Any) -> Any:
    if not isinstance(tensor, Tensor):
        return tensor  # the interpreter of scripts hands over numbers as they are
    with unmet():
        value = raw(_op, tensor)
    if local.around:
        readings.local.is_decided = True
        return value
    found = provenance(tensor) if local.traces else None
    if found is not None:
        if _is_tracking():
            escape([found])
        else:
            readings.note(found)  # an op that is followed, whose results carry the source
    return value


_SHAPED = tuple(
    getattr(getattr(torch.ops.aten, name), overload)
    for name, overload in (
        ("nonzero", "default"),
        ("masked_select", "default"),
        ("_unique2", "default"),
        ("unique_dim", "default"),
        ("unique_consecutive", "default"),
        ("bincount", "default"),
        ("repeat_interleave", "Tensor"),
    )
)
"""The ops whose results have a shape that values decide, which a function may call out of sight."""


def _shaping(op: Any) -> Callable[..., Any]:
    def shape(*args: Any, **kwargs: Any) -> Any:
        readings.local.is_decided = True
        with unmet():
            return raw(op, *args, **kwargs)

    return shape


class _Scalars(Interceptor):
    """Meets the numbers; the key of the dispatcher is switched with the draws."""

    def __init__(self) -> None:
        self._libraries: list[Any] = []

    def enter(self) -> None:
        """Register the kernel the first time."""
        if not self._libraries:
            library = _Library("aten", "IMPL", KEY_NAME)
            library.impl(_op.name(), _number)
            for op in _SHAPED:
                library.impl(op.name(), _shaping(op))
            self._libraries = [library]


interceptors.append(_Scalars())
