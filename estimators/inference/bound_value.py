"""Bound value: a detached tensor for reports, which refuses to be differentiated.

>>> import torch
>>> BoundValue(torch.tensor(-1.5)) + 1
tensor(-0.5000)
"""

from typing import Any, NoReturn

from torch import Tensor

from ancestral.estimators.gradient.loss_pytree import LossError
from ancestral.provenance.tensor.tensor import ProvenanceTensor, run


class BoundValue(Tensor):
    """A detached scalar, whose copies, text and pickle are those of a plain tensor."""

    __torch_function__ = run

    @property
    def _plain(self) -> Tensor:
        return self.as_subclass(Tensor)

    def backward(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the value has no gradient.

        Raises:
            LossError: always.
        """
        raise LossError(
            "the value of a bound is for reports and has no gradient: call .surrogate.backward() "
            "on what the function returned; minimizing that improves the bound"
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        """Show it as a tensor."""
        return repr(self._plain)

    def __format__(self, spec: str) -> str:
        """Format it as a tensor."""
        return format(self._plain, spec)

    def __deepcopy__(self, memo: Any) -> Tensor:
        """Copy it as a tensor."""
        return self._plain.clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle it as a tensor."""
        return self._plain.__reduce_ex__(protocol)


def bound_value(value: Tensor) -> Tensor:
    """Return a detached value as one for reports, unless it carries provenance."""
    return value if isinstance(value, ProvenanceTensor) else value.as_subclass(BoundValue)
