"""Noise: draws of which there is nothing to learn, and draws that cannot be followed."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from ancestral.provenance.tensor import provenance
from ancestral.trace.naming import Place
from ancestral.trace.saved import is_without_graph


class TransformedDrawError(NotImplementedError):
    """A draw with something to learn happens within a transform of `torch.func`."""

    def __init__(self, function: str, where: Place) -> None:
        """Name the function and the line."""
        super().__init__(
            f"{function} at {where.location} draws within a transform of torch.func (vmap, grad "
            "...), where its value cannot be followed; draw before the transform, and pass the "
            "value in"
        )


is_within_transform: Callable[[Tensor], bool] = torch._C._functorch.is_functorch_wrapped_tensor
"""Returns whether a tensor is one that a transform of `torch.func` has wrapped."""


def is_noise(parameters: Iterable[Tensor]) -> bool:
    """Return whether a draw with these parameters has nothing to learn from."""
    layers = [layer for tensor in parameters for layer in _layers(tensor)]
    is_constant = not any(t.requires_grad or provenance(t) is not None for t in layers)
    return is_constant and not is_without_graph()


def _layers(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor and those that the transforms of `torch.func` have wrapped in it."""
    yield tensor
    while is_within_transform(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
        yield tensor
