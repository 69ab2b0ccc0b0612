"""Self-check: a compiled plan beside an eager recording of the very same draws."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.capture.refusal import Refusal
from ancestral.provenance.tensor.tensor import forget, untrack


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one run with known draws gave: a value, gradients, and what was written into."""

    value: Tensor
    gradients: tuple[Tensor, ...]
    written: tuple[Tensor, ...]


@contextmanager
def undone(tensors: Sequence[Tensor]) -> Generator[None]:
    """Draw as if for the first time within the block, and undo what it writes into tensors."""
    before = [(type(tensor), tensor.detach().clone()) for tensor in tensors]
    devices = sorted({tensor.device.index or 0 for tensor in tensors if tensor.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for tensor, (kind, value) in zip(tensors, before, strict=True):
                if not _are_same(tensor, value):
                    tensor.copy_(value)
                if type(tensor) is not kind:
                    forget(tensor, kind)


def outcome(run: Callable[[], Tensor], tensors: Sequence[Tensor]) -> Outcome:
    """Return what a run gives, and its derivatives by those of some tensors that are learned."""
    with undone(tensors):
        value = run()
        learned = [tensor for tensor in tensors if tensor.requires_grad]
        gradients: Sequence[Tensor] = [torch.zeros_like(tensor) for tensor in learned]
        if value.requires_grad and learned:
            gradients = torch.autograd.grad(
                value, learned, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        written = tuple(tensor.detach().clone() for tensor in tensors)
        return Outcome(untrack(value).detach(), tuple(gradients), written)


def compare(compiled: Outcome, eager: Outcome, rounding: float) -> float:
    """Return how far a compiled run is from an eager one, relative to the largest numbers.

    Args:
        compiled: what a compiled run gave.
        eager: what a recording did.
        rounding: the relative error of one rounding of the coarsest type that they compute in.

    Raises:
        Refusal: if that is more than rounding.
    """
    one, other = (compiled.value,), (eager.value,)
    return max(
        _distance(one, other, "the value of the loss differs", rounding),
        _distance(compiled.gradients, eager.gradients, "gradients differ", rounding),
        _distance(
            compiled.written, eager.written, "what is written into buffers differs", rounding
        ),
    )


def _distance(
    ours: Sequence[Tensor], theirs: Sequence[Tensor], what: str, rounding: float
) -> float:
    """Return the largest difference, relative to what it belongs to.

    Of what is small beside all others, rounding is that of the others.
    """
    largest, worst = max(map(_size, theirs), default=0.0), 0.0
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise Refusal(f"the self-check failed: {what} in shape or type from a recording's")
        if _are_same(one, other):
            continue
        if not other.is_floating_point():
            apart, allowed = float(not torch.equal(one, other)), 0.0
        else:
            size = max(_size(other), 0.01 * largest)
            apart = _size(one - other) / (size or 1.0)
            allowed = max(float(torch.finfo(other.dtype).eps) ** 0.6, rounding / 4)
        if not apart <= allowed:
            raise Refusal(
                f"the self-check failed: {what} from that of a recording of the same draws by "
                f"{apart:.1g} of the largest"
            )
        worst = max(worst, apart)
    return worst


def _are_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal, and have no number in the same places, as data may."""
    if torch.equal(one, other):
        return True
    are_missing = one != one
    if not torch.equal(are_missing, other != other):
        return False
    return torch.equal(one.masked_fill(are_missing, 0), other.masked_fill(are_missing, 0))


def _size(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() and value.is_floating_point() else 0.0
