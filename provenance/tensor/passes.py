"""Passes: gradients that torch takes of tracked tensors by itself, which know of no scores."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.control_flow import is_constant
from ancestral.provenance.tensor.tensor import (
    TYPES,
    ProvenanceTensor,
    provenance,
    run,
)

before_backward: list[Callable[[str, Tensor, Any, Any], None]] = []
"""Functions that look at a tensor that torch is to differentiate, and know what it leaves out.

They are given the name of the function, the tensor, the inputs, None for all, and what each element
of it counts.
"""


PASSES = frozenset({torch.autograd.grad, torch.autograd.backward})


def run_pass(func: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> tuple[Any, bool]:
    """Run a pass through autograd; return its results, and whether they are constants.

    So they are if it is of a surrogate, and is taken after the recording.
    """
    tensors = tensors_in(args[0])
    outputs = [*filter(None, map(provenance, tensors))]
    inputs = args[1] if func is torch.autograd.grad else kwargs.get("inputs")
    given = [*args[1:2], kwargs.get("grad_tensors")]
    if func is torch.autograd.grad:
        given = [*args[2:3], kwargs.get("grad_outputs")]
    for tensor in tensors:
        if type(tensor) is ProvenanceTensor:
            for look in before_backward:
                look(f"torch.autograd.{func.__name__}", tensor, inputs, given)
    result = run(func, types, args, kwargs)
    return result, bool(outputs) and all(is_constant(found.universe) for found in outputs)


def _backward(self: Tensor, *args: Any, **kwargs: Any) -> None:
    """Run `torch.Tensor.backward`, which depends on no provenance and knows of no scores."""
    inputs = args[3] if len(args) > 3 else kwargs.get("inputs")
    for look in before_backward:
        look("loss.backward", self, inputs, (*args[:1], kwargs.get("gradient")))
    run(Tensor.backward, TYPES, (self, *args), kwargs)


ProvenanceTensor.backward = _backward  # type: ignore[method-assign]
