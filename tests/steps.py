"""What tests of compiled steps share: a step, and an eager recording, of the very same draws."""

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import ancestral as an

W = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
V = torch.tensor([1.0, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
"""Two parameters, and the data of four examples."""


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients that were accumulated, and forget them."""
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


def eager(
    function: Callable[..., Tensor], parameters: Sequence[Tensor], *args: Any, **options: Any
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss of a recording, and the gradient by `an.backward`."""
    gradients(parameters)  # what other tests have left
    with an.record():
        loss = function(*args)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", an.errors.BlurredCreditWarning)
        an.backward(loss, **options)
    return an.untrack(loss).detach(), gradients(parameters)


def compiled(
    step: Callable[..., Tensor], parameters: Sequence[Tensor], *args: Any
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss of a step, and the gradient by its backward."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", an.errors.BlurredCreditWarning)
        loss = step(*args)
    gradients(parameters)
    loss.backward()
    return loss.detach(), gradients(parameters)


def agreeing(
    function: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    *args: Any,
    backend: Any = "eager",
    seeds: Sequence[int] = (0, 1, 2),
    **options: Any,
) -> Any:
    """Return a compiled step that gave the loss and the gradient of recordings, draw by draw."""
    given = copy.deepcopy(options)  # a baseline that learns is to learn once from each step
    step = an.compile(function, backend=backend, **options)
    for seed in seeds:
        agree(step, function, parameters, *args, seed=seed, **given)
    return step


def agree(
    step: Callable[..., Tensor],
    function: Callable[..., Tensor],
    parameters: Sequence[Tensor],
    *args: Any,
    seed: int = 0,
    buffers: Sequence[Tensor] = (),
    **options: Any,
) -> None:
    """Assert that one step gives what a recording of the same draws does, and writes the same."""
    before = [buffer.clone() for buffer in buffers]
    torch.manual_seed(seed)
    theirs = eager(function, parameters, *args, **options)
    left = [buffer.clone() for buffer in buffers]
    for buffer, value in zip(buffers, before, strict=True):
        buffer.copy_(value)
    torch.manual_seed(seed)
    ours = compiled(step, parameters, *args)
    largest = max(float(each.abs().max()) for each in theirs[1] if each.numel())
    pairs = zip([ours[0], *ours[1], *buffers], [theirs[0], *theirs[1], *left], strict=True)
    for one, other in pairs:
        size = float(other.abs().max()) if other.numel() else 0.0
        bound = 1e-10 if other.dtype == torch.float64 else 2e-5
        torch.testing.assert_close(one, other, rtol=0, atol=bound * max(size, 0.01 * largest))
