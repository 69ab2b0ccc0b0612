"""Log-probability of a site as a term of a loss, with its provenance.

It depends on the value and on the parameters, element by element: that is what a batch of
distributions means, by whatever ops a class of torch computes it. Of a user's class only what its
ops show is known.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Distribution

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.tensor.tensor import alias, attach, provenance
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.plain import aside
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.distribution_params import (
    factorized,
    is_of_torch,
    param_provenance,
    parameters,
    parts_of,
)
from ancestral.trace.nodes.enum_dims import Enumeration
from ancestral.trace.nodes.factor import Factor, PointMass
from ancestral.trace.nodes.mask import replaced


class _Site(Protocol):
    """What a density is computed from; `ancestral.trace.nodes.node.Node` is one."""

    @property
    def fn(self) -> Distribution | None: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def source(self) -> Source: ...
    @property
    def param_provenance(self) -> Provenance | None: ...
    @property
    def held(self) -> Provenance | None: ...
    @property
    def scale(self) -> float | Tensor: ...
    @property
    def mask(self) -> Tensor | None: ...
    @property
    def event_dims(self) -> int: ...
    @property
    def enumeration(self) -> Enumeration | None: ...
    @property
    def is_given(self) -> bool: ...
    @property
    def is_drawn(self) -> bool: ...
    @property
    def is_reparameterized(self) -> bool: ...
    @property
    def kept(self) -> Tensor | None: ...
    @property
    def counted_log_prob(self) -> Tensor: ...
    @property
    def elementwise_log_prob(self) -> Tensor: ...
    @property
    def tracked_value(self) -> Tensor: ...
    def mark(self, density: Tensor, /) -> None: ...


def tracked_log_prob(node: _Site) -> Tensor:
    """Return log p(value | parents), masked and scaled, with its provenance: [*shape]."""
    density = tracked_density(node, is_masked=True)
    if node.mask is None and not isinstance(node.scale, Tensor):
        return density if node.scale == 1 else density * node.scale
    is_aligned = tuple(density.shape) == node.shape
    if node.mask is not None:
        density = _masked(density, _over(node.mask, node, is_aligned))
    if isinstance(node.scale, Tensor):
        return density * _over(node.scale, node, is_aligned)
    return density if node.scale == 1 else density * node.scale


def _masked(density: Tensor, mask: Tensor) -> Tensor:
    """Return a density without the elements that do not count, also where it is infinite."""
    is_finite = bool(torch.isfinite(detach(alias(density))).all())
    return density * mask.to(density.dtype) if is_finite else torch.where(mask, density, 0)


def _over(weight: Tensor, node: _Site, is_aligned: bool) -> Tensor:
    """Return what stands for each case of a batch over the elements of its events."""
    if not is_aligned or not node.event_dims or not weight.ndim:
        return weight
    return weight[(..., *(None,) * node.event_dims)]


def tracked_density(node: _Site, *, is_masked: bool) -> Tensor:
    """Return log p(value | parents) of each independent element, with its provenance: [*shape].

    To the left of that are the dimensions that parents are enumerated along. If it is to be masked,
    nothing is to be read where the mask hides an element.
    """
    plain = node.counted_log_prob if is_masked else node.elementwise_log_prob
    node.mark(plain)
    if not (isinstance(node.fn, Factor | PointMass) or is_of_torch(node.fn)):
        return _as_computed(node, plain, node.kept if is_masked else None)
    found = _joined(node, tuple(plain.shape))
    if found is None or found.universe.state == "settled":
        return plain
    return _own(node, attach(aside(plain), found))


def _joined(node: _Site, shape: tuple[int, ...]) -> Provenance | None:
    """Return what the value and the parameters depend on, over a density of this shape."""
    value, upstream = _of_value(node), node.param_provenance
    if shape != node.shape:
        value = None if value is None else _broadcast(value, shape)
        upstream = None if upstream is None else _wider(node, upstream, shape)
    if value is None or upstream is None:
        return value or upstream
    return value.union(upstream)


def _broadcast(found: Provenance, shape: tuple[int, ...]) -> Provenance:
    """Return a provenance over what is broadcast to a shape, if it is."""
    return found.broadcast(shape) if len(found.shape) <= len(shape) else found.lost(shape)


def _wider(node: _Site, known: Provenance, shape: tuple[int, ...]) -> Provenance:
    """Return what the parameters depend on where they have more dimensions than the value."""
    fn = node.fn
    found = (
        None
        if node.enumeration is None or fn is None
        else param_provenance(fn, parameters(fn), shape, None)
    )
    if found is None or found.universe is not known.universe:
        return known.lost(shape)
    missing = known.members - found.members  # what Python decided on before
    return found.union(known.universe.depending(missing, shape)) if missing else found


def _of_value(node: _Site) -> Provenance | None:
    """Return what the value depends on, over the independent draws."""
    if node.held is not None:
        return node.held.remap(node.shape, tuple(range(len(node.shape))))
    universe = node.source.universe
    return None if universe is None or node.is_given else universe.of(node.source, node.shape)


def _as_computed(node: _Site, plain: Tensor, keep: Tensor | None) -> Tensor:
    """Return the density of a class of the user, run in sight, and all that it may depend on."""
    fn: Any = factorized(node.fn) if node.fn is not None else None
    value = node.tracked_value
    if keep is not None:
        fn, value = replaced(fn, value, keep)
    was_inside, local.is_inside = local.is_inside, True
    try:
        with torch.enable_grad():
            density: Tensor = fn.log_prob(computable(fn, value))
    finally:
        local.is_inside = was_inside
    if node.is_drawn and node.is_reparameterized and not plain.requires_grad:
        # Of a Delta, say: however its value moves, a comparison tells nothing of its density.
        own = _joined(node, tuple(plain.shape))
        return _own(node, plain if own is None else attach(alias(plain), own))
    found = provenance(density)
    everything = _joined(node, ())
    if everything is not None and everything.universe.state != "settled":
        known = frozenset() if found is None else found.members
        unseen = everything.members - known
        if unseen:
            lost = everything.universe.depending(unseen, tuple(plain.shape))
            found = lost if found is None else found.union(lost)
            density = attach(alias(density), found)
    return _own(node, density)


def computable(fn: Distribution, value: Tensor) -> Tensor:
    """Return a value in a dtype that a density can be computed in.

    Torch takes integers for most, but no truth values, and neither for those of a Bernoulli.
    """
    if value.is_floating_point() or value.is_complex():
        return value
    if value.dtype != torch.bool and not any(isinstance(p, Bernoulli) for p in parts_of(fn)):
        return value
    dtypes = (item.tensor.dtype for item in parameters(fn))
    return value.to(next((d for d in dtypes if d.is_floating_point), torch.get_default_dtype()))


def _own(node: _Site, density: Tensor) -> Tensor:
    """Mark the density of a draw at its own value, whose own gradient has mean zero."""
    if node.is_drawn and provenance(density) is not None:
        density._scored = node  # type: ignore[attr-defined]
        density._form = None  # type: ignore[attr-defined]
    return density
