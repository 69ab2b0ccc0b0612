"""Supports: the values that a distribution can take, and inclusion of one support in another."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    MixtureSameFamily,
    TransformedDistribution,
    constraints,
)
from torch.distributions.utils import lazy_property

from ancestral.provenance.tensor.tensor import Unseen, alias, raw
from ancestral.provenance.tensor.torch_internals import is_all_true
from ancestral.trace.context.argument_checks import first_of
from ancestral.trace.context.switch import unmet
from ancestral.trace.nodes.distribution_params import is_of_torch, parameters, plainly
from ancestral.trace.nodes.mask import over

_SHOWN = 16  # the most numbers of an event that a message shows


class _Span(NamedTuple):
    """An interval of numbers, or of integers; ends of no mass are not told apart."""

    lower: Any
    upper: Any
    is_discrete: bool


def support_of(fn: Distribution) -> Any:
    """Return the support of a distribution, None where a user's class declares none."""
    inner = fn.base_dist if isinstance(fn, Independent) else None
    inner = fn.component_distribution if isinstance(fn, MixtureSameFamily) else inner
    if inner is not None and support_of(inner) is None:  # of which torch makes none either
        return None
    try:
        support = fn.support
    except NotImplementedError:
        return None
    return None if support is None or constraints.is_dependent(support) else support


def is_discrete(fn: Distribution | None) -> bool:
    """Return whether a distribution has values apart from each other, as far as it tells.

    >>> is_discrete(torch.distributions.Poisson(0.5)), is_discrete(torch.distributions.Normal(0, 1))
    (True, False)
    """
    if isinstance(fn, TransformedDistribution):  # torch states the codomain
        return is_discrete(fn.base_dist)
    return fn is not None and bool(getattr(support_of(fn), "is_discrete", False))


def takes(fn: Distribution, dtype: torch.dtype) -> bool:
    """Return whether a value may be of a dtype.

    Integers are for distributions whose support is discrete, or says nothing of it, as those of
    users and of Pyro's matchings, and for those that have parameters of that dtype.
    """
    if dtype.is_floating_point or dtype.is_complex:
        return True
    support = support_of(fn)
    if support is None or not is_of_torch(support) or support.is_discrete:
        return True
    return any(held.tensor.dtype == dtype for held in parameters(fn))


def meets_constraints(fn: Distribution) -> bool:
    """Return whether the parameters of a distribution of torch that is being made can be such.

    They are held to the constraints that torch holds them to. False is also returned where that is
    not all there is to it: torch is to say.
    """
    kind: Any = type(fn)
    held, declared = vars(fn), kind.arg_constraints
    try:
        with unmet(), Unseen():
            for name, constraint in declared.items():
                if name not in held:
                    if isinstance(vars(kind).get(name), lazy_property):
                        continue  # to be computed of the others
                    return False
                is_told = not constraints.is_dependent(constraint)
                if is_told and not is_all_true(constraint.check(held[name])):
                    return False
    except Exception:  # to be raised once more
        return False
    return True


def is_possible(fn: Distribution, value: Tensor) -> Tensor:
    """Return which elements of a value are finite and in the support of a distribution, [*batch].

    A support with bounds that have more dimensions has these too. Where a user's class declares no
    support, all that is finite is possible.
    """
    event, plain = len(fn.event_shape), alias(value).detach()
    is_finite = _all(plain.isfinite(), event)  # infinity is a real number to torch
    support = support_of(fn)
    if support is None:
        return is_finite
    try:
        is_inside: Tensor = plainly(support, support.check, plain)
    except NotImplementedError:
        return is_finite
    return is_finite & _all(is_inside, event - _events(support, plain, is_inside))


def _all(elements: Tensor, events: int) -> Tensor:
    """Return whether all elements of each event, of so many dimensions, are true."""
    return elements.flatten(-events).all(-1) if events > 0 else elements


def _events(support: Any, value: Tensor, is_inside: Tensor) -> int:
    """Return how many dimensions of a value one element of a check is about.

    Bounds may have more dimensions than the value, and a user's constraint may not declare any.
    """
    try:
        declared = int(support.event_dim)
    except NotImplementedError:
        declared = 0
    return max(declared, value.dim() - is_inside.dim())


def lies_within(inner: Any, outer: Any) -> bool | None:
    """Return whether a support is a part of another; None where that is not known.

    >>> lies_within(constraints.unit_interval, constraints.positive)
    True
    >>> lies_within(constraints.real, constraints.positive)
    False
    >>> lies_within(constraints.boolean, constraints.real)  # mass is no density
    False
    """
    inner, outer = _element(inner), _element(outer)
    ours, theirs = _span(inner), _span(outer)
    if ours is None or theirs is None:
        return True if type(inner) is type(outer) else None
    if ours.is_discrete is not theirs.is_discrete:
        return False
    return _not_above(theirs.lower, ours.lower) and _not_above(ours.upper, theirs.upper)


def is_finite(support: Any) -> bool:
    """Return whether a support is of finitely many values, as far as is known.

    >>> is_finite(constraints.boolean), is_finite(constraints.nonnegative_integer)
    (True, False)
    """
    support = _element(support)
    if type(support) in (type(constraints.one_hot), type(constraints.multinomial(1))):
        return True
    span = _span(support)
    ends = () if span is None or not span.is_discrete else (span.lower, span.upper)
    return bool(ends) and all(bool(raw(torch.isfinite, torch.as_tensor(end)).all()) for end in ends)


def _element(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _span(support: Any) -> _Span | None:
    low = getattr(support, "lower_bound", -math.inf)
    high = getattr(support, "upper_bound", math.inf)
    discrete = bool(getattr(support, "is_discrete", False))
    kinds: Any = (
        type(constraints.real),
        type(constraints.positive),
        type(constraints.nonnegative),
        type(constraints.unit_interval),
        type(constraints.less_than(0.0)),
        type(constraints.half_open_interval(0.0, 1.0)),
        type(constraints.nonnegative_integer),
        type(constraints.integer_interval(0, 1)),
    )
    if type(support) is type(constraints.boolean):
        return _Span(0, 1, True)
    return _Span(low, high, discrete) if type(support) in kinds else None


def _not_above(a: Any, b: Any) -> bool:
    return bool((torch.as_tensor(a).detach() <= torch.as_tensor(b).detach()).all())


def wrong_of(support: Any, value: Tensor, is_inside: Tensor) -> str:
    """Return which elements of a plain value are wrong, or which events, where none is by itself.

    Args:
        support: the constraint that the value does not meet.
        value: the value, [*batch, *event].
        is_inside: which events meet it, [*batch] or what broadcasts with it: its bounds may have
            further dimensions, for some of which a value is wrong.
    """
    events, shape = _events(support, value, is_inside), tuple(value.shape)
    is_inside = ~over(~is_inside, shape[: len(shape) - events])
    bad = ~is_inside[(..., *(None,) * events)] & over(_is_wrong(support, value), shape)
    if bool(bad.any()):
        return (
            f"{int(bad.sum())} of {bad.numel()} elements, the first of them {first_of(value[bad])}"
        )
    event = value[~is_inside][0]
    shown = f", the first of them {event.tolist()}" if event.numel() <= _SHOWN else ""
    return f"{int((~is_inside).sum())} of {is_inside.numel()} events{shown}"


def _is_wrong(support: Any, value: Tensor) -> Tensor:
    """Return which elements are wrong by themselves, whatever the others of their event are."""
    if isinstance(support, constraints.independent):
        return _is_wrong(support.base_constraint, value)
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        dim = -1 - support.event_dim
        return _is_wrong(support.base_constraint, value.unsqueeze(dim)).any(dim)
    found = torch.isnan(value)
    if not support.event_dim:
        found = ~plainly(support, support.check, value)
    elif isinstance(support, (type(constraints.simplex), constraints.multinomial)):
        found = found | (value < 0)
    return found
