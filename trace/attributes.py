"""Attributes of tensors that are set: ``x.data = z`` writes into a plain tensor past every op.

Torch asks only the tensor whose attribute it is, which is plain, so that the setters are met while
a recording is open. Whoever reads an attribute gets torch's own, but for the ``.data`` of a leaf
that is learned: torch counts what is written by it, as through `detach`, so that a gradient which
needs what the leaf was is refused.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ancestral.provenance.tensor import NO_KEYWORDS, TYPES, ProvenanceTensor, provenance
from ancestral.provenance.torch_internals import DATA_ATTRIBUTES
from ancestral.provenance.writes import run_write
from ancestral.trace.cuts import cut_off
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
            if type(tensor) in _PLAIN and tensor.requires_grad:
                torch.autograd.graph.increment_version(tensor)
        else:
            setter = self._original.__set__
            run_write(setter, TYPES, (tensor, value), NO_KEYWORDS, [tensor])


_PLAIN = (Tensor, nn.Parameter)


class _Data(_Attribute):
    """``.data``, whose writes torch counts."""

    def __get__(self, tensor: Tensor | None, kind: type | None = None) -> Any:
        if tensor is None:
            return self._original
        is_counted = type(tensor) in _PLAIN and tensor.requires_grad
        result = tensor.detach() if is_counted else super().__get__(tensor, kind)
        cut_off(tensor, result)
        return result


class _Attributes(Replacing):
    """Meets the setters that change the values of a tensor."""

    def begin(self) -> None:
        """Take the places of the attributes."""
        for name, original in DATA_ATTRIBUTES.items():
            kind = _Data if name == "data" else _Attribute
            self.replace(Tensor, name, kind(original))


interceptors.append(_Attributes())
