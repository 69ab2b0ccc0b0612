"""Constraints: the transform between the values of a parameter and unconstrained numbers."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Transform, biject_to, constraints, transform_to
from torch.distributions.constraints import Constraint

from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.tensor.tensor import alias, provenance_of, raw
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.stack import local
from ancestral.trace.nodes.distribution_params import plainly
from ancestral.trace.nodes.support import wrong_of
from ancestral.trace.params.errors import misfit, wrong_param
from ancestral.trace.recording.message import Message


def transform_of(constraint: Constraint) -> Transform:
    """Return the transform from unconstrained numbers to the values that a constraint allows.

    It is a bijection where torch knows one; of triangular and of definite matrices it knows a
    transform that leaves out the numbers above the diagonal.

    Raises:
        NotImplementedError: if torch knows neither.
    """
    try:
        found: Transform = biject_to(constraint)
    except NotImplementedError:
        found = transform_to(constraint)
    return found


def check_constraint(constraint: Constraint, message: Message) -> None:
    """Raise unless a parameter can have a constraint.

    Raises:
        ParamError: if it is no constraint, or torch knows no transform to it.
    """
    if not isinstance(constraint, Constraint):
        raise wrong_param(
            message,
            f"its constraint is {short(constraint)}; expected an instance of a constraint of "
            "torch.distributions.constraints, such as constraints.positive",
        )
    try:
        transform_of(constraint)
    except NotImplementedError as error:
        raise wrong_param(
            message,
            f"its constraint is {short(constraint)}, to which torch.distributions has no "
            "transform; expected one of continuous values, such as constraints.positive",
        ) from error


def initial(message: Message) -> Tensor:
    """Return the value that the program begins with, detached.

    What a function draws or computes to make it is no part of the run.

    Raises:
        ParamError: if there is none, or none that a parameter can begin with.
    """
    init = message.options["init"]
    if init is None:
        raise wrong_param(
            message,
            "the store does not have it and it has no init; give a tensor, or a function of no "
            "argument that returns one, where it is asked for first",
        )
    if not isinstance(init, Tensor) and callable(init):
        was_inside, local.is_inside = local.is_inside, True
        try:
            with torch.no_grad():
                init = init()
        finally:
            local.is_inside = was_inside
    if not isinstance(init, Tensor):
        raise wrong_param(message, f"its init is a {type(init).__name__}; expected a Tensor")
    if init.is_meta:
        raise wrong_param(message, "its init has no values, on the device meta; give it some")
    if not (init.is_floating_point() or init.is_complex()):
        expected = "a floating dtype, such as float32"
        raise wrong_param(message, f"its init is of {init.dtype}; expected {expected}")
    if provenance_of(init):
        sites = ", ".join(map(repr, sorted(provenance_of(init))))
        raise wrong_param(
            message,
            f"its init depends on {sites}; a parameter is no function of what the program draws; "
            "cut the dependency with an.untrack",
        )
    return init.detach()


def unconstrained(value: Tensor, constraint: Constraint, message: Message) -> Tensor:
    """Return the unconstrained numbers of an initial value, in their own memory.

    Raises:
        ParamError: if the value is outside the constraint, or on its boundary, or has fewer
            elements than its bounds.
    """
    problem, shown = outside(value, constraint), short(constraint)
    if problem is not None:
        raise wrong_param(message, f"its init is {problem}; expected {shown}")
    try:
        leaf: Tensor = raw(_inverse, value, constraint)
    except RuntimeError as error:  # of a matrix that is singular, or not square
        raise wrong_param(
            message,
            f"its init, of shape {list(value.shape)}, has no unconstrained numbers by the "
            f"transform of its constraint {shown}: {error}",
        ) from error
    if raw(_is_on_bound, value, constraint) or not bool(torch.isfinite(leaf).all()):
        raise wrong_param(
            message,
            f"its init lies on the boundary of its constraint {shown}, which no finite "
            "unconstrained number reaches; expected a value inside",
        )
    back = tuple(transform_of(constraint).forward_shape(leaf.shape))
    if back != tuple(value.shape):
        raise wrong_param(
            message,
            f"its init has shape {list(value.shape)}, and bounds of its constraint {shown} have "
            f"more: {list(back)}; expand the init to that",
        )
    return leaf


def _inverse(value: Tensor, constraint: Constraint) -> Tensor:
    # A leaf that is made in inference mode could never be learned.
    with torch.inference_mode(False), torch.no_grad():
        leaf: Tensor = transform_of(constraint).inv(value.clone())
        return leaf.clone(memory_format=torch.contiguous_format)


def _is_on_bound(value: Tensor, constraint: Constraint) -> bool:
    """Return whether a value is a bound of an interval, where torch takes a number close to it."""
    if isinstance(constraint, constraints.independent):
        return _is_on_bound(value, constraint.base_constraint)
    if isinstance(constraint, constraints.cat):
        parts = value.split(list(constraint.lengths), constraint.dim)
        return any(map(_is_on_bound, parts, constraint.cseq))
    if isinstance(constraint, constraints.stack):
        return any(map(_is_on_bound, value.unbind(constraint.dim), constraint.cseq))
    bounds = [getattr(constraint, word, None) for word in ("lower_bound", "upper_bound")]
    return any(bool((value == bound).any()) for bound in bounds if bound is not None)


def outside(value: Tensor, constraint: Constraint) -> str | None:
    """Return what is wrong with a value that a constraint does not allow, None if it does."""
    width = int(constraint.event_dim)
    if value.dim() < width:
        return f"of shape {list(value.shape)}, of which {width} dimensions are to be one event"
    plain = alias(value).detach()
    try:
        is_inside: Tensor = plainly(constraint, constraint.check, plain)
    except RuntimeError as error:  # shapes or dtypes that torch cannot compare
        shape = list(plain.shape)
        return f"{plain.dtype} of shape {shape}, which {short(constraint)} cannot be: {error}"
    if bool(is_inside.all()):
        return None
    return f"outside of its constraint in {wrong_of(constraint, plain, is_inside)}"


def check_value(message: Message, shape: Shape | None, constraint: Constraint) -> None:
    """Raise unless a parameter can have the value that a handler gave it.

    Raises:
        ParamError: if it cannot.
    """
    value = message.value
    if not isinstance(value, Tensor):
        raise misfit(message, kind_of(value), "a torch.Tensor")
    size = tuple(raw(Tensor.size, value))
    if shape is not None and size != shape:
        raise misfit(message, f"a value of shape {list(size)}", f"shape {list(shape)}")
    problem = outside(value, constraint)
    if problem is not None:
        raise misfit(message, f"a value {problem}", short(constraint))


def is_same(one: Any, other: Any) -> bool:
    """Return whether two constraints allow the same, also if they are copies of each other."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        # A check: where they are not, it raises.
        return one.shape == other.shape and bool((alias(one) == alias(other)).all())
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(is_same, one, other))
    if isinstance(one, Constraint) and type(one) is type(other):
        return is_same(list(vars(one).items()), list(vars(other).items()))
    return not isinstance(one, (Tensor, Constraint)) and bool(one == other)
