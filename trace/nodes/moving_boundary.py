"""Boundaries of supports that move with what is learned, where a score function lacks a term.

        ∇ ∫_a^b c q dx = ∫_a^b c ∇q dx + c(b) q(b) ∇b - c(a) q(a) ∇a

The score function estimates the integral alone. It is all where the density is zero at the ends, or
where these stay: those of a Uniform with learned ends move, and so do all values of a coin that is
shifted by something learned.

>>> high = torch.tensor(2.0, requires_grad=True)
>>> has_moving_boundary(torch.distributions.Uniform(0.0, high))
True
>>> has_moving_boundary(torch.distributions.Exponential(high))
False
"""

from collections.abc import Iterator, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    Transform,
    TransformedDistribution,
    constraints,
)

from ancestral.provenance.tensor.tensor import Unseen
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.distribution_params import factorized, parameters
from ancestral.trace.nodes.support import is_discrete, support_of

_DRAWS = 16  # that tell how high a density is
_STEP = 1e-4  # from an end to a draw: torch takes one end of an interval for outside
_LITTLE = 1e-3  # of the highest density: that at the ends of a logistic that is made of a Uniform


def has_moving_boundary(fn: Distribution) -> bool:
    """Return whether what is learned moves a boundary at which there is density."""
    fn = factorized(fn)
    if isinstance(fn, MixtureSameFamily):
        return has_moving_boundary(fn.component_distribution)
    if not _is_moved(fn) and not any(map(_is_learned, _bounds(fn))):
        return False
    learned = [tensor for tensor, _ in parameters(fn) if tensor.requires_grad]
    if not learned:
        return False
    devices = {tensor.device for tensor in learned if tensor.is_cuda}
    was_inside, local.is_inside = local.is_inside, True  # to ask is not to draw or to observe
    try:
        with Unseen(), torch.random.fork_rng(devices=devices):
            if _is_moved(fn) and is_discrete(fn):
                return any(_is_moving(value, learned) for value in _values(fn, learned[0]))
            return any(_is_moving(end, learned) and _has_density(fn, end) for end in _ends(fn))
    except Exception:  # of a class of the user, which takes no such value, or draws no such shape
        return not _is_moved(fn)  # learned ends may have density; of a flow it is not known
    finally:
        local.is_inside = was_inside


def _is_moved(fn: Distribution) -> TypeGuard[TransformedDistribution]:
    """Return whether a distribution states no other values than those of its base, transformed."""
    return getattr(type(fn), "support", None) is TransformedDistribution.support


def _is_learned(bound: Any) -> bool:
    return isinstance(bound, Tensor) and bound.requires_grad


def _bounds(fn: Distribution) -> Iterator[Any]:
    """Yield the ends of the support that a distribution states."""
    support = support_of(fn)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    for name in ("lower_bound", "upper_bound"):
        bound = getattr(support, name, None)
        if bound is not None:
            yield bound


def _ends(fn: Distribution) -> Iterator[Tensor]:
    """Yield the ends of the values: those of the base, transformed, where the class states none."""
    if isinstance(fn, Independent):
        yield from _ends(fn.base_dist)
    elif _is_moved(fn):
        yield from (_through(fn.transforms, end) for end in _ends(fn.base_dist))
    else:
        shape = fn.batch_shape + fn.event_shape
        like = next((held.tensor for held in parameters(fn)), torch.empty(()))
        yield from (bound + like.new_zeros(shape) for bound in _bounds(fn))


def _through(transforms: Sequence[Transform], value: Tensor) -> Tensor:
    with torch.enable_grad():
        for transform in transforms:
            value = transform(value)
    return value


def _values(fn: TransformedDistribution, like: Tensor) -> Iterator[Tensor]:
    """Yield what becomes of zero and one, which both stay where no value of the base moves."""
    shape = fn.base_dist.batch_shape + fn.base_dist.event_shape
    yield _through(fn.transforms, like.new_zeros(shape))
    yield _through(fn.transforms, like.new_ones(shape))


def _is_moving(end: Tensor, learned: Sequence[Tensor]) -> bool:
    if not end.requires_grad:
        return False
    total = end[end.detach().isfinite()].sum()
    found = torch.autograd.grad(total, learned, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in found)


@torch.no_grad()
def _has_density(fn: Distribution, end: Tensor) -> bool:
    """Return whether the density just within an end is not little, nor unknown."""
    drawn = fn.sample(torch.Size([_DRAWS]))
    within = end + _STEP * (drawn[0] - end)
    ratio = (fn.log_prob(within) - fn.log_prob(drawn).amax(0)).exp()
    return not bool((ratio <= _LITTLE).all())
