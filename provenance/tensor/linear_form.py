"""Linear form: the linear step by which a tensor was made of others, kept for the loss.

``loss = nll.mean() + beta * kl`` is one number, but it is a sum of many costs, each with its own
provenance. Every linear op on a tracked tensor leaves a form: what it was made of, and the adjoint
of the step, which turns the weight of the result into the weights of the operands. A form holds the
tensors at its leaves only, not those between. Whatever has no form is one cost.

A weight is the derivative of the loss by the elements of a tensor: a float where all elements have
the same, a tensor of the operand's shape otherwise.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ancestral.provenance.tensor.torch_internals import read_version

Weight = float | Tensor
Operand = Any  # a Form, a Tensor (a leaf, tracked or not), a number, or an Unreduced loss


class Placed(NamedTuple):
    """The weight of a part of an operand: all of its other elements weigh nothing.

    `part` takes a tensor of the operand's shape to a view of it that meets no element twice.
    """

    part: Callable[[Tensor], Tensor]
    weight: Weight
    shape: tuple[int, ...]


Share = Weight | Placed
Adjoint = Callable[[Weight], Sequence[Share]]


class Hole(NamedTuple):
    """Where an operand stood in the arguments of an op."""

    number: int


class Call(NamedTuple):
    """An op as it was called, with holes for its operands and the constants that it was given.

    `versions` tell whether a constant was overwritten since.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    versions: tuple[tuple[Tensor, int], ...]


Form = (
    tuple[int, Adjoint, Operand]
    | tuple[int, Adjoint, Operand, Operand]
    | tuple[int, Adjoint, tuple[Operand, ...], Call, Callable[..., Any]]
)
"""One linear step: its number, the adjoint, and what it was applied to, one or two operands. Or,
unless the adjoint tells, those that it was applied to, how it is computed and what was called.
Plain, because every addition of two tracked tensors makes one."""


def made_of(form: Form) -> tuple[Operand, ...]:
    """Return what a linear step was applied to."""
    operands: tuple[Operand, ...] = form[2] if len(form) == 5 else form[2:]
    return operands


class Scaled:
    """The adjoint of an operand times a constant, or divided by one: a number, or a tensor.

    Many are made, and few are asked: `args` are what `func` is called with before the weight.
    """

    __slots__ = ("factor", "func", "operand", "result", "version")

    def __init__(
        self,
        func: Callable[..., Sequence[Share]],
        result: tuple[int, ...],
        operand: tuple[int, ...],
        factor: float | Tensor,
        version: int,
    ) -> None:
        self.func = func
        self.result = result
        self.operand = operand
        self.factor = factor
        self.version = version

    @property
    def args(self) -> tuple[Any, ...]:
        """The shapes of the result and of the operand, the constant, and its version."""
        return self.result, self.operand, self.factor, self.version

    def __call__(self, weight: Weight) -> Sequence[Share]:
        """Return the weight of the operand."""
        return self.func(*self.args, weight)


class Called:
    """The adjoint of calls of one kind, with what tells how their results are computed.

    One stands for all calls that are alike, so that the form of each is one tuple.
    """

    __slots__ = ("adjoint", "call", "function")

    def __init__(self, adjoint: Adjoint, call: Call, function: Callable[..., Any]) -> None:
        self.adjoint = adjoint
        self.call = call
        self.function = function

    def __call__(self, weight: Weight) -> Sequence[Share]:
        """Return the weight of the operand."""
        return self.adjoint(weight)


def call_of(form: Form) -> Call | None:
    """Return what was called in a linear step, None if the adjoint alone tells."""
    if len(form) == 5:
        return form[3]
    return form[1].call if isinstance(form[1], Called) else None


serials = itertools.count()
"""Numbers the forms in the order they were made: every operand is older than its result."""


class OverwrittenError(RuntimeError):
    """A constant that a tensor was multiplied with, or chosen by, was overwritten since."""


def version_of(constant: Tensor) -> int:
    """Return how often a tensor was written into, -1 where it does not tell."""
    try:
        version: int = read_version(constant)
    except RuntimeError:  # an inference tensor: torch does not count
        return -1
    return version


def numel(shape: Sequence[int]) -> int:
    """Return the number of elements of a tensor of this shape."""
    total = 1
    for size in shape:
        total *= size
    return total
