"""Constructors: ``torch.Tensor(z)`` and its like share the memory of a tensor and ask nobody.

They are met in the dispatcher, where the alias that they make comes by.
"""

from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.tensor import attach, provenance, raw
from ancestral.provenance.torch_internals import is_torch_function_enabled
from ancestral.trace.interceptors import Interceptor, interceptors
from ancestral.trace.keys import KEY_NAME, unmet
from ancestral.trace.stack import local

_Library: Any = torch.library.Library  # untyped in torch
_op = torch.ops.aten.alias.default


def _alias(tensor: Tensor) -> Tensor:
    with unmet():
        made: Tensor = raw(_op, tensor)
    # Within an op that is followed tracking is off: its result is marked as a whole.
    if not local.traces or not is_torch_function_enabled():
        return made
    found = provenance(tensor)
    return made if found is None else attach(made, found)


class _Constructors(Interceptor):
    """Meets the aliases; the key of the dispatcher is switched with the draws."""

    def __init__(self) -> None:
        self._libraries: list[Any] = []

    def enter(self) -> None:
        """Register the kernel the first time."""
        if not self._libraries:
            library = _Library("aten", "IMPL", KEY_NAME)
            library.impl(_op.name(), _alias)
            self._libraries = [library]


interceptors.append(_Constructors())
