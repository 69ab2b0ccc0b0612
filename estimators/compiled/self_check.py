"""Self-check: a compiled plan beside an eager recording of the very same draws."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.compiled.refusal import Refusal
from ancestral.provenance.tensor.tensor import untrack


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one run with known draws gave: a value, gradients, and what was written into."""

    value: Tensor
    gradients: tuple[Tensor, ...]
    written: tuple[Tensor, ...]


@contextmanager
def undone(tensors: Sequence[Tensor]) -> Generator[None]:
    """Draw as if for the first time within the block, and undo what it writes into tensors."""
    before = [tensor.detach().clone() for tensor in tensors]
    devices = sorted({tensor.device.index or 0 for tensor in tensors if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, before, strict=True):
                if not torch.equal(tensor, value):
                    tensor.copy_(value)


def outcome(run: Callable[[], Tensor], tensors: Sequence[Tensor]) -> Outcome:
    """Return what a run gives, and its derivatives by those of some tensors that are learned."""
    with undone(tensors):
        value = run()
        learned = [tensor for tensor in tensors if tensor.requires_grad]
        gradients: Sequence[Tensor] = [torch.zeros_like(tensor) for tensor in learned]
        if value.requires_grad and learned:
            gradients = torch.autograd.grad(
                value, learned, allow_unused=True, materialize_grads=True
            )
        written = tuple(tensor.detach().clone() for tensor in tensors)
        return Outcome(untrack(value).detach(), tuple(gradients), written)


def compare(compiled: Outcome, eager: Outcome) -> float:
    """Return how far a compiled run is from an eager one, relative to the largest numbers.

    Raises:
        Refusal: if that is more than rounding.
    """
    worst = 0.0
    for what in ("value", "gradients", "written"):
        ours, theirs = getattr(compiled, what), getattr(eager, what)
        pairs = [(ours, theirs)] if isinstance(ours, Tensor) else zip(ours, theirs, strict=True)
        for one, other in pairs:
            worst = max(worst, _distance(one, other, what))
    return worst


def _distance(one: Tensor, other: Tensor, what: str) -> float:
    if one.shape != other.shape or one.dtype != other.dtype:
        raise Refusal(f"the self-check found other {_WORDS[what]} than those of a recording")
    if not other.numel():
        return 0.0
    if not other.is_floating_point():
        apart, allowed = float((one != other).any()), 0.0
    else:
        size = float(other.abs().max())
        apart = float((one - other).abs().max()) / (size or 1.0)
        allowed = float(torch.finfo(other.dtype).eps) ** 0.6
    if not apart <= allowed:
        raise Refusal(
            f"the self-check failed: {_WORDS[what]} differ from those of a recording by "
            f"{apart:.1g} of the largest"
        )
    return apart


_WORDS = {"value": "values of the loss", "gradients": "gradients", "written": "buffers"}
