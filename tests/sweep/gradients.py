"""Gradients: first and second ones of a tracked call, against those of the call untracked."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import untrack
from perturbation import dense
from sweep.calls import Call, copied
from sweep.checks import Findings, Sources

_ROUNDING = 1e-10


def check_gradients(call: Call, sources: Sources, findings: Findings, is_twice: bool) -> None:
    """Note a gradient, or a second one, that differs from the untracked call's."""
    plain = _gradients(call, lambda _, tensor: tensor, is_twice)
    if isinstance(plain, str):
        return
    tracked = _gradients(call, sources.tracked, is_twice)
    if isinstance(tracked, str):
        findings.note(call, f"has no gradient where it is tracked: {tracked}")
        return
    for order, (expected, found) in enumerate(zip(plain, tracked, strict=True), 1):
        for index, (a, b) in enumerate(zip(expected, found, strict=True)):
            if (a is None) is not (b is None) or (
                a is not None and b is not None and not _is_close(a, b)
            ):
                findings.note(call, f"has another gradient of order {order} by tensor {index}")


def _gradients(
    call: Call, prepared: Callable[[int, Tensor], Tensor], is_twice: bool
) -> list[Sequence[Tensor | None]] | str:
    """Return the gradients of a weighted sum of the results, and those of a sum of these."""
    bases = [copied(t) for t in call.tensors]
    inputs = [t for t in bases if t.dtype.is_floating_point or t.dtype.is_complex]
    for base in inputs:
        base.requires_grad_()
    try:
        # A copy with a history may be written into, a leaf may not.
        given = [prepared(n, t.clone() if t.requires_grad else t) for n, t in enumerate(bases)]
        outcome = call.run(given)
        total = _total(outcome.tensors)
        if total is None or not inputs:
            return "no result is differentiable"
        first = torch.autograd.grad(total, inputs, create_graph=is_twice, allow_unused=True)
        found: list[Sequence[Tensor | None]] = [first]
        again = _total([g for g in first if g is not None]) if is_twice else None
        if again is not None:
            found.append(torch.autograd.grad(again, inputs, allow_unused=True))
    except Exception as error:  # what torch does not differentiate, it says in many ways
        return f"{type(error).__name__}: {error}"[:200]
    return found


def _total(tensors: Sequence[Tensor]) -> Tensor | None:
    total: Any = None
    for tensor in tensors:
        if tensor.requires_grad:
            flat = untrack(tensor).to_dense() if tensor.layout != torch.strided else untrack(tensor)
            flat = torch.view_as_real(flat).flatten() if flat.is_complex() else flat.flatten()
            weights = torch.linspace(0.5, 1.5, flat.numel(), dtype=flat.dtype)
            total = (flat * weights).sum() + (0 if total is None else total)
    return total if isinstance(total, Tensor) else None


def _is_close(a: Tensor, b: Tensor) -> bool:
    x, y = dense(a), dense(untrack(b))
    return x.shape == y.shape and torch.allclose(
        x, y, rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True
    )
