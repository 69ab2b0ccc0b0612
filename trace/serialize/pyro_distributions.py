"""Pyro's distributions: what a site of a Pyro program is here, and the other way round.

>>> import pyro.distributions as dist
>>> torch_ = torch.distributions.Bernoulli(torch.tensor(0.3))
>>> type(as_pyro(torch_, torch.tensor(1.0))) is dist.Bernoulli
True
"""

import functools
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Distribution, Independent

from ancestral.trace.nodes.distribution_params import declares_all
from ancestral.trace.nodes.factor import Factor, PointMass


class Site(NamedTuple):
    """What a statement says of its site.

    Attributes:
        fn: the distribution, without a mask.
        value: the value, None where it is to be drawn.
        mask: which elements of the batch count, None for all.
        is_reparameterized: whether a draw is to be differentiable in its parameters.
    """

    fn: Distribution
    value: Tensor | None
    mask: Tensor | None
    is_reparameterized: bool


def translated(fn: Any, value: Tensor | None, mask: Any) -> Site:
    """Return the site of a statement, of which Pyro's handlers have made this."""
    kind: Any = type(fn)
    if mask is None and is_simple(kind):
        return Site(fn, value, None, fn.has_rsample)
    while isinstance(fn, MaskedDistribution):
        own = vars(fn)["_mask"]  # of Pyro, whatever torch calls so
        mask = own if mask is None else mask & own
        fn = fn.base_dist
    if mask is not None and not isinstance(mask, Tensor):
        mask = None if mask is True else torch.as_tensor(bool(mask))
    if isinstance(mask, Tensor) and mask.dtype != torch.bool:
        mask = mask != 0
    if isinstance(fn, dist.Unit):
        factor = Factor(fn.log_factor)
        return Site(factor, factor.nothing, mask, False)
    point = _point(fn)
    if point is not None:
        density, value = _density_at(point, value)
        return Site(PointMass(density, point.event_shape), value, mask, False)
    return Site(fn, value, mask, is_pathwise(fn))


@functools.lru_cache(maxsize=1024)
def is_simple(kind: Any) -> bool:
    """Return whether a class says all of its site by itself, as those of torch do."""
    return declares_all(kind) and _parts_of(kind) is _parts_of(dist.TorchDistribution)


def is_pathwise(fn: Any) -> bool:
    """Return whether the derivative of a draw in the parameters is the whole one.

    A class that corrects it by a score function, as those that reject proposals do, is scored as a
    whole instead.
    """
    if isinstance(fn, MaskedDistribution | ExpandedDistribution | Independent):
        return bool(fn.has_rsample) and is_pathwise(fn.base_dist)
    return bool(fn.has_rsample) and _parts_of(type(fn)) is _parts_of(dist.TorchDistribution)


def _parts_of(kind: Any) -> Any:
    return getattr(kind, "score_parts", dist.TorchDistribution.score_parts)


def _point(fn: Any) -> Any:
    """Return the Delta that a distribution is, also where a batch of it is one event."""
    if isinstance(fn, dist.Delta):
        return fn
    if isinstance(fn, Independent) and isinstance(fn.base_dist, dist.Delta):
        inner, count = fn.base_dist, fn.reinterpreted_batch_ndims
        density = inner.log_density.sum(tuple(range(-count, 0)))
        return dist.Delta(inner.v, density, event_dim=inner.event_dim + count)
    return None


def _density_at(point: Any, value: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the logarithm of the density of a Delta at a value, and the value: its own if None."""
    density = point.log_density
    if value is None or value is point.v:
        return density, point.v
    is_there = (value == point.v.expand(point.shape())).to(value.dtype).log()
    events = tuple(range(-point.event_dim, 0))
    return density + (is_there.sum(events) if events else is_there), value


def as_pyro(fn: Distribution, value: Tensor) -> Any:
    """Return a distribution as Pyro has it: with its methods, and its classes for what has none.

    A class of a user is left as it is.
    """
    if isinstance(fn, Factor):
        return dist.Unit(fn.log_factor)
    if isinstance(fn, PointMass):
        return dist.Delta(value, fn.log_density, event_dim=len(fn.event_shape))
    kind: Any = getattr(dist, type(fn).__name__, None)
    if isinstance(fn, dist.TorchDistribution) or kind is None or type(fn) not in kind.__mro__:
        return fn
    twin: Any = object.__new__(kind)
    twin.__dict__.update(vars(fn))
    if isinstance(fn, Independent):
        twin.base_dist = as_pyro(fn.base_dist, value)
    return twin
