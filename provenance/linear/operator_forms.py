"""Operator forms: the linear forms of sums, differences, products with constants and quotients.

What the operators of tracked tensors, and the functions that these are short for, leave for the
loss, as it is made at once where gradients are on.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from ancestral.provenance.linear.transpose import both, difference, divided, summed
from ancestral.provenance.tensor.linear_form import Adjoint, Form, Scaled, serials
from ancestral.provenance.tensor.tensor import ProvenanceTensor

PLAIN = frozenset({Tensor, nn.Parameter})
Linear = Callable[[ProvenanceTensor, Any, type, tuple[int, ...]], Form | None]
"""Makes the form of the result of an operator: of its operands, the class of the second, and its
shape."""
_FACTORS = {"+": (1.0, 1.0), "-": (1.0, -1.0), "r-": (-1.0, 1.0)}


def summing(signs: str) -> Linear:
    """Return how to make the form of a sum or a difference."""
    equal = {"+": both, "-": difference}.get(signs)
    factors = _FACTORS[signs]
    known: dict[tuple[Any, ...], Adjoint] = {}

    def linear(
        self: ProvenanceTensor, other: Any, kind: type, shape: tuple[int, ...]
    ) -> Form | None:
        ours = self._provenance
        mine = ours.shape
        if kind is ProvenanceTensor:
            a, b = ours.universe, other._provenance.universe
            if a is not b and not (a.state == b.state == "open"):
                return None  # it would hold on to recordings that are over
            theirs = other._provenance.shape
            if equal is not None and (mine is theirs or mine == theirs):
                return (next(serials), equal, self._form or self, other._form or other)
            other = other._form or other
        else:
            theirs = tuple(other.shape) if kind in PLAIN else ()
        key = (shape, mine, theirs)
        adjoint = known.get(key) or _adjoint_of(known, key, factors)
        return (next(serials), adjoint, self._form or self, other)

    return linear


def _adjoint_of(
    known: dict[tuple[Any, ...], Adjoint], key: tuple[Any, ...], factors: tuple[float, float]
) -> Adjoint:
    """Return the adjoint of a sum of two shapes, one for all sums of these."""
    if len(known) >= _MOST_KNOWN:  # they are made again
        known.clear()
    shape, *both = key
    made = known[key] = partial(summed, shape, tuple(both), factors)
    return made


_MOST_KNOWN = 4096


def scaling(adjoint: Callable[..., Any]) -> Linear:
    """Return how to make the form of a product with a constant, or of a quotient by one."""
    is_quotient = adjoint is divided

    def linear(
        self: ProvenanceTensor, other: Any, kind: type, shape: tuple[int, ...]
    ) -> Form | None:
        if kind is ProvenanceTensor or (is_quotient and kind not in PLAIN and not other):
            return None
        version = 0
        if kind in PLAIN:
            try:
                version = other._version  # as `version_of`, written out for speed
            except RuntimeError:
                version = -1
        step = Scaled(adjoint, shape, self._provenance.shape, other, version)
        return (next(serials), step, self._form or self)

    return linear
