"""Mask: elements kept out of a density, its gradient and its checks.

A hidden element may hold anything: NaN for missing data, -1 as padding. To multiply its density by
zero is not enough, as zero times NaN is NaN in the backward pass. So it takes the value, and the
parameters, of the first element that counts, as constants, before the density is computed.

>>> import torch
>>> from torch.distributions import Normal
>>> loc = torch.zeros(2, requires_grad=True)
>>> keep = torch.tensor([True, False])
>>> fn, value = replaced(Normal(loc, 1.0), torch.tensor([1.0, torch.nan]), keep)
>>> torch.autograd.grad(fn.log_prob(value).sum(), loc)
(tensor([1., 0.]),)
"""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.alignment_map import common_shape
from ancestral.provenance.tensor.tensor import alias, attach, provenance, raw
from ancestral.provenance.tensor.torch_internals import InverseTransform
from ancestral.trace.nodes.distribution_params import held_within


def over(mask: Tensor, batch: Shape, events: int = 0) -> Tensor:
    """Return which elements of a batch count, under any of the values of others.

    A mask may have further dimensions, to the left or where the batch has size 1: those that stand
    for values of enumerated sites.

    Args:
        mask: what counts, with `events` dimensions less on the right.
        batch: the shape of the elements, [*batch].
        events: how many dimensions of the batch each element of the mask is about.
    """
    plain: Tensor = alias(mask)[(..., *(None,) * events)]
    if plain.shape == batch:
        return plain
    whole = common_shape(plain.shape, batch)
    return plain.expand(whole).sum_to_size(batch) > 0 if whole != batch else plain.expand(batch)


def replaced(fn: Distribution, value: Tensor, keep: Tensor) -> tuple[Distribution, Tensor]:
    """Return a distribution and a value with the first element that is kept at those that are not.

    Args:
        fn: the distribution.
        value: the value, [*batch, *event], which the parameters broadcast with.
        keep: which elements are kept, [*batch] of both together.

    Returns:
        A distribution of the same class that checks no arguments, and the value. No gradient goes
        back to what was replaced; what is kept is the same to the bit.
    """
    if not getattr(fn, "is_computed", True):  # its density is stored, for one value
        return fn, value
    found: tuple[Distribution, Tensor] = raw(_replaced, fn, value, keep)
    return found


def _replaced(fn: Distribution, value: Tensor, keep: Tensor) -> tuple[Distribution, Tensor]:
    first = _first_of(keep)

    def mixed(tensor: Tensor, event: int, batch: Shape) -> Tensor:
        """Return a tensor, [*batch, *event], with its first element at those not kept."""
        one = tensor.detach().expand(keep.shape + tensor.shape[tensor.dim() - event :])[first]
        found = torch.where(over(keep, batch)[(..., *(None,) * event)], tensor, one)
        known = provenance(tensor)
        return found if known is None else attach(found, known.broadcast(tuple(found.shape)))

    known = {
        # An event, which may be a large matrix, is not copied for each element that shares it.
        id(tensor): mixed(tensor, event, _batch(tensor, event) if event else tuple(keep.shape))
        for tensor, event in held_within(fn)
        if 0 <= event <= tensor.dim()
    }
    # Where nothing is kept, zero is at least an index.
    value, event = torch.where(keep.any(), value, torch.zeros_like(value)), len(fn.event_shape)
    return rebuilt(fn, known), mixed(value, event, _batch(value, event))


def _first_of(keep: Tensor) -> tuple[Tensor, ...]:
    """Return the index of the first element that is kept; `torch.unravel_index` takes longer."""
    number, index = keep.flatten().int().argmax(), list[Tensor]()
    for size in reversed(keep.shape[1:]):
        index.append(number % size)
        number = number // size
    return (number, *reversed(index)) if keep.ndim else ()


def _batch(tensor: Tensor, event: int) -> Shape:
    return tuple(tensor.shape[: tensor.dim() - event])


def rebuilt(part: Any, known: dict[int, Tensor]) -> Any:
    """Return a distribution, or what it is composed of, with other tensors in it."""
    if isinstance(part, Tensor):
        return known.get(id(part), part)
    if type(part) in (list, tuple):
        return type(part)(rebuilt(item, known) for item in part)
    if not isinstance(part, (Distribution, Transform)):
        return part
    twin: Any = object.__new__(type(part))
    held = {name: item for name, item in vars(part).items() if not is_passing(part, name)}
    vars(twin).update({name: rebuilt(item, known) for name, item in held.items()})
    if isinstance(part, Distribution):
        vars(twin)["_validate_args"] = False  # the value was checked when it was given
    elif not isinstance(part, InverseTransform):
        vars(twin).update(_inv=None, _cached_x_y=(None, None))
    return twin


def is_passing(part: Distribution | Transform, name: str) -> bool:
    """Return whether an attribute only remembers the last call, or points back."""
    if not isinstance(part, Transform):
        return False
    return name == "_cached_x_y" or (name == "_inv" and not isinstance(part, InverseTransform))
