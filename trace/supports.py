"""Supports: whether the values that one distribution can take are values of another."""

import math
from typing import Any, NamedTuple

import torch
from torch.distributions import Distribution, constraints


class _Span(NamedTuple):
    """An interval of numbers, or of integers; ends of no mass are not told apart."""

    lower: Any
    upper: Any
    is_discrete: bool


def support_of(fn: Distribution) -> Any:
    """Return the support of a distribution, None where a user's class declares none."""
    try:
        return fn.support
    except NotImplementedError:
        return None


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
