"""Attributes of tensors that are set: ``x.data = z`` writes into a plain tensor past every op.

Torch asks only the tensor whose attribute it is, which is plain, so that the setters are met while
a recording is open. Whoever reads an attribute gets torch's own.
"""

from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.tensor import NO_KEYWORDS, TYPES, ProvenanceTensor, provenance
from ancestral.provenance.writes import run_write
from ancestral.trace.interceptors import Replacing, interceptors


class _Attribute:
    """An attribute of torch's tensors whose setter follows what is written."""

    def __init__(self, original: Any) -> None:
        self._original = original

    def __get__(self, tensor: Tensor | None, kind: type | None = None) -> Any:
        return self._original if tensor is None else self._original.__get__(tensor)

    def __set__(self, tensor: Tensor, value: Any) -> None:
        if provenance(value) is None or isinstance(tensor, ProvenanceTensor):
            self._original.__set__(tensor, value)
        else:
            setter = self._original.__set__
            run_write(setter, TYPES, (tensor, value), NO_KEYWORDS, [tensor])


class _Attributes(Replacing):
    """Meets the setters that change the values of a tensor."""

    def begin(self) -> None:
        """Take the places of the attributes."""
        for name in ("data", "real", "imag"):
            original = vars(torch._C.TensorBase)[name]  # pyright: ignore[reportPrivateUsage]
            self.replace(Tensor, name, _Attribute(original))


interceptors.append(_Attributes())
