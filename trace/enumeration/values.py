"""Finite supports: all values of a distribution, in order.

Of an event of independent elements they are the product of what each element can take, the last
element the fastest.

>>> import torch
>>> from torch.distributions import Bernoulli, Independent
>>> values_of(Independent(Bernoulli(torch.full((2,), 0.5)), 1)).tolist()
[[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
"""

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    Multinomial,
    TransformedDistribution,
)

from ancestral.provenance.tensor.tensor import provenance, untrack
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.distribution_params import is_of_torch, parameters, plainly
from ancestral.trace.nodes.support import is_finite, support_of

MOST_VALUES = 2**12
"""How many values an event of several numbers may have together, to be listed."""


def has_values(fn: Distribution) -> bool:
    """Return whether a distribution has finitely many values, as far as its class tells."""
    if fn.has_enumerate_support:
        return True
    if isinstance(fn, Independent | TransformedDistribution):
        return has_values(fn.base_dist)
    if isinstance(fn, MixtureSameFamily):
        return has_values(fn.component_distribution)
    return is_finite(support_of(fn))


def values_of(fn: Distribution) -> Tensor | None:
    """Return the values of a distribution, the same ones for each case of its batch: [K, *event].

    None where each case has one, which its parameters say, so that any draw is that one.

    Raises:
        NotImplementedError: if they cannot be listed; its message goes on from the name of `fn`.
    """
    was_inside, local.is_inside = local.is_inside, True
    try:
        values = _listed(fn)
    finally:
        local.is_inside = was_inside
    depends = values.requires_grad or provenance(values) is not None
    values = untrack(values).detach()
    number = math.prod(values.shape[1 : values.dim() - len(fn.event_shape)])
    cases = values.reshape(len(values), number, *fn.event_shape)
    is_same = bool((cases == cases[:, :1]).all())
    if len(values) == 1 and (fn.has_rsample or depends or not is_same):
        return None
    if depends:
        raise NotImplementedError("lists values that depend on its parameters")
    if not is_same:
        raise NotImplementedError("lists other values for other cases of its batch")
    return cases[:, 0]


def _listed(fn: Distribution) -> Tensor:
    """Return values [K, *batch, *event], where dimensions of the batch may be of size 1."""
    if fn.has_enumerate_support:
        # Those of a user's class may depend on its parameters.
        try:
            found: Tensor = (
                plainly(fn, fn.enumerate_support, expand=False)
                if is_of_torch(fn)
                else fn.enumerate_support(expand=False)
            )
        except NotImplementedError as error:
            why = str(error) or "enumerate_support"
            raise NotImplementedError(f"cannot list its values ({why})") from error
        return found
    if isinstance(fn, Independent):
        return _products(fn, _listed(fn.base_dist))
    if isinstance(fn, Multinomial) and isinstance(fn.total_count, int):
        return _counts(fn, fn.total_count)
    raise NotImplementedError(
        "has finitely many values, but does not list them (enumerate_support)"
    )


def _products(fn: Any, values: Tensor) -> Tensor:
    """Return all that the elements of an event can be together, given values of each."""
    elements = fn.base_dist.batch_shape[len(fn.batch_shape) :]
    event, count = fn.base_dist.event_shape, math.prod(elements)
    size, cases = len(values), values.shape[1 : 1 + len(fn.batch_shape)]
    number = _limited(size**count)
    each = values.expand(size, *cases, *elements, *event).reshape(size, *cases, count, *event)
    powers = torch.tensor([size**i for i in reversed(range(count))], dtype=torch.long)
    index = torch.arange(number)[:, None] // powers % size  # [number, count]
    chosen = each.movedim(1 + len(cases), 1)[index, torch.arange(count)]
    return chosen.movedim(1, 1 + len(cases)).reshape(number, *cases, *elements, *event)


def _counts(fn: Multinomial, total: int) -> Tensor:
    """Return all ways to spread a number of trials over the classes, in lexicographic order."""
    classes = fn.event_shape[0]
    number = _limited(math.comb(total + classes - 1, classes - 1))
    # Between the trials of one class and of the next stands a bar.
    bars = torch.tensor(list(itertools.combinations(range(total + classes - 1), classes - 1)))
    ends = torch.full((number, 1), total + classes - 1)
    places = torch.cat([bars.reshape(number, -1).long(), ends], 1)
    counts = places.diff(dim=1, prepend=torch.full((number, 1), -1)) - 1
    like = parameters(fn)[0].tensor
    ones = (1,) * len(fn.batch_shape)
    return counts.reshape(number, *ones, classes).to(like.device, like.dtype)


def _limited(number: int) -> int:
    if number > MOST_VALUES:
        shown = str(number) if number < 10**12 else f"about 10**{math.log10(number):.0f}"
        raise NotImplementedError(
            f"has {shown} values, more than the {MOST_VALUES} that are listed of one event (in "
            "an.plate, in place of the event, each element is enumerated by itself)"
        )
    return number
