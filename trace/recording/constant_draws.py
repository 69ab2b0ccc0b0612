"""Noise: draws with nothing to learn, and draws that cannot be followed."""

import sys
from collections.abc import Iterable, Iterator
from types import FrameType

import torch
import torch.autograd.functional
from torch import Tensor
from torch.autograd import forward_ad

from ancestral.provenance.tensor.tensor import provenance
from ancestral.provenance.tensor.torch_internals import (
    DisableTorchFunction,
    apis,
    eager_transforms,
    get_unwrapped,
    is_functorch_wrapped_tensor,
)
from ancestral.trace.context.errors import TransformError
from ancestral.trace.context.place import DERIVATIVES, Place, place
from ancestral.trace.context.stack import local


def transformed_draw(function: str, where: Place) -> TransformError:
    """Return the error that a draw with something to learn is within a transform of torch."""
    return TransformError(
        f"{function} at {where.location} draws within {transform_around('forward_ad')}, where its "
        "value cannot be followed, and the derivative would leave out its score; draw before, and "
        "pass the value in, or differentiate an.surrogate(loss) of a recording around the draw"
    )


def transform_around(inner: str) -> str:
    """Return the transform that the user called, the outermost on the stack, else `inner`."""
    name = inner
    frame: FrameType | None = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        public = frame.f_code.co_qualname.split(".")[0].removesuffix("_impl")
        module = frame.f_globals.get("__name__")
        if module == torch.autograd.functional.__name__ and public in DERIVATIVES:
            name = f"{module}.{public}"
        elif module in _MODULES and public in _PUBLIC:
            function = getattr(frame.f_locals.get("func"), "__code__", None)
            is_twice = public == "jacfwd" and getattr(function, "co_qualname", "").startswith(
                "jacrev"
            )
            name = "hessian" if is_twice else public
        frame = frame.f_back
    return name


_MODULES = frozenset({apis.__name__, eager_transforms.__name__})
_PUBLIC = frozenset(
    "functionalize grad grad_and_value jacfwd jacrev jvp linearize vjp vmap chunk_vmap".split()
)


def refuse_transformed(function: str, held: Iterable[Tensor], error: Exception) -> None:
    """Raise where torch itself draws nothing within a transform, of which there is to learn."""
    if transform_around("") and not is_noise(held):
        raise transformed_draw(function, place()) from error


is_within_transform = is_functorch_wrapped_tensor
"""Returns whether a tensor is one that a transform of `torch.func` has wrapped."""


def is_noise(parameters: Iterable[Tensor]) -> bool:
    """Return whether a draw with these parameters has nothing to learn from."""
    layers = [layer for tensor in parameters for layer in _layers(tensor)]
    is_constant = not any(
        t.requires_grad or provenance(t) is not None or has_tangent(t) for t in layers
    )
    return is_constant and not local.without_graph


def has_tangent(tensor: Tensor) -> bool:
    """Return whether a tensor is differentiated in forward mode."""
    if forward_ad._current_level < 0:
        return False
    with DisableTorchFunction():
        return forward_ad.unpack_dual(tensor).tangent is not None


def _layers(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor and those that the transforms of `torch.func` have wrapped in it."""
    yield tensor
    while is_within_transform(tensor):
        tensor = get_unwrapped(tensor)
        yield tensor
