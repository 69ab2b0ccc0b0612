"""Plain tensors of a recording, which no kernel of it meets."""

from torch import Tensor

from ancestral.provenance.tensor.tensor import alias
from ancestral.trace.context.switch import unmet


def aside(tensor: Tensor) -> Tensor:
    """Return a plain tensor on the same data and autograd history."""
    with unmet():
        return alias(tensor)
