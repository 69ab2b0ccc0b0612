"""The terms of a loss: one scalar taken apart into the costs that it is a weighted sum of.

        loss = constant + sum_j sum_t w_j[t] c_j[t]

The linear forms that tensors carry are walked from the loss down, newest first, each weight being
turned into the weights of the operands by the adjoint of the step. What no form explains is a term.
The terms must add up to the loss.
"""

import heapq
import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ancestral.provenance.algebra import Provenance
from ancestral.provenance.forms import Unreduced, resolve, written_since
from ancestral.provenance.linear import Weight
from ancestral.provenance.tensor import provenance, untrack
from ancestral.trace.graph import Vertex
from ancestral.trace.naming import Location
from ancestral.trace.node import Node


class LossMismatchError(RuntimeError):
    """The terms that a loss was taken apart into do not add up to it."""

    def __init__(self, loss: float, total: float) -> None:
        """Give both numbers."""
        super().__init__(
            f"the terms of the loss add up to {total!r}, but the loss is {loss!r}: a tensor that "
            "the loss was computed from was overwritten since, through another tensor on the same "
            "memory; clone it before the write, or take the gradient before"
        )


class NonFiniteCostError(ValueError):
    """A cost is NaN or infinite."""

    def __init__(self, number: int, term: "Term") -> None:
        """Describe the term."""
        bad = int((~torch.isfinite(term.value)).sum())
        super().__init__(
            f"term {number} of the loss, {describe(term)}, has {bad} of {term.value.numel()} "
            "elements that are NaN or infinite; every score downstream of it would be lost: mend "
            "the cost, or mask it with torch.where before it is summed"
        )


@dataclass(frozen=True, eq=False)
class Term:
    """One cost of a loss.

    `value` is weighted and plain, [*shape]; `leaf` is the tensor that it came from, with its
    history; `weight` the constant that the loss multiplies it with.
    """

    value: Tensor
    leaf: Tensor
    weight: Weight
    provenance: Provenance | None

    @property
    def made(self) -> str:
        """What the cost was made by, as far as it can be told."""
        return op_name(self.leaf)

    @property
    def live(self) -> Tensor:
        """The weighted cost with its autograd history, [*shape]."""
        return untrack(self.leaf) * self.weight


def describe(term: Term) -> str:
    """Return what a person can find a term by: its op, its shape, its sources."""
    made = op_name(term.leaf)
    op = f"made by {made}" if made else "a leaf"
    names = [] if term.provenance is None else [repr(s.name) for s in term.provenance.sources]
    return f"{op}, of shape {list(term.value.shape)}, depending on {', '.join(names) or 'no site'}"


class Constant(NamedTuple):
    """What a linear form, of this number, added to a loss that depends on no source: [].

    The number is -1 where it is the loss itself.
    """

    serial: int
    live: Tensor


class Parts(NamedTuple):
    """The terms of a loss, and the part of it that depends on no source, in all and as it came."""

    terms: list[Term]
    constant: float
    constants: tuple[Constant, ...]


def terms_of(loss: Tensor, weight: Tensor | None = None) -> Parts:
    """Return the terms of a loss, and the part of it that depends on no source.

    Args:
        loss: the loss, a scalar unless `weight` is given.
        weight: what each element of the loss counts, of its shape.

    Raises:
        LossMismatchError: if the terms do not add up to the loss.
        NonFiniteCostError: if a cost is NaN or infinite.
    """
    start: Weight = 1.0 if weight is None else untrack(weight).detach()
    walk = _Walk()
    walk.visit(resolve(loss), start, -1)
    while walk.heap:
        walk.step()
    if walk.is_stale:  # an operand was overwritten since: the loss is one cost
        walk = _Walk()
        walk.add_leaf(loss, start, -1)
    # The newest were met first: a reader expects the order of the program.
    terms = [_term(leaf, w, _floating(loss)) for leaf, w in reversed(walk.leaves.values())]
    _check(terms, walk.constant, loss, start)
    return Parts(terms, walk.constant, tuple(walk.constants))


def vertices_of(terms: list[Term]) -> list[tuple[Vertex, Provenance]]:
    """Return the terms as costs of a graph, but for the densities that belong to a site."""
    return [
        (Vertex("cost", "cost", op_name(t.leaf), tuple(t.value.shape), _NOWHERE), t.provenance)
        for t in terms
        if t.provenance is not None and getattr(t.leaf, "_scored", None) is None
    ]


def op_name(leaf: Tensor) -> str:
    """Return the op that a tensor was made by, as autograd knows it.

    >>> op_name(torch.zeros(2, requires_grad=True).exp())
    'exp'
    """
    return "" if leaf.grad_fn is None else _spelt(leaf.grad_fn.name())


@lru_cache(maxsize=1024)
def _spelt(name: str) -> str:
    camel = re.sub(r"Backward\d*$", "", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", camel).lower()


_NOWHERE = Location("<loss>", 0, "")


class _Walk:
    """The walk over the forms of a loss, newest first, so that every weight is complete."""

    def __init__(self) -> None:
        self.heap: list[tuple[int, int]] = []
        self.forms: dict[int, tuple[Any, Weight]] = {}
        self.leaves: dict[int, tuple[Tensor, Weight]] = {}
        self.computed: dict[int, tuple[Unreduced, Tensor]] = {}
        self.constant = 0.0
        self.constants: list[Constant] = []
        self.is_stale = False

    def visit(self, operand: Any, weight: Weight, serial: int) -> None:
        """Meet an operand of the form with this number."""
        if isinstance(operand, Tensor):
            if serial >= 0 and written_since(operand, serial):
                self.is_stale = True
            self.add_leaf(operand, weight, serial)
        elif isinstance(operand, Unreduced):
            _, leaf = self.computed.setdefault(id(operand), (operand, operand.compute()))
            self.visit(getattr(leaf, "_form", None) or leaf, weight, -1)
        elif isinstance(operand, tuple):
            known = self.forms.get(id(operand))
            if known is None:
                heapq.heappush(self.heap, (-operand[0], id(operand)))
                self.forms[id(operand)] = (operand, weight)
            else:
                self.forms[id(operand)] = (operand, known[1] + weight)
        else:
            total = torch.as_tensor(_total(weight) * float(operand), dtype=torch.float64)
            self.add_constant(total, serial)

    def add_constant(self, live: Tensor, serial: int) -> None:
        """Add to the part that depends on no source what the form with this number brought in."""
        self.constant += float(live.detach())
        self.constants.append(Constant(serial, live))

    def add_leaf(self, leaf: Tensor, weight: Weight, serial: int) -> None:
        """Add to the weight of a cost, or to the constant."""
        if provenance(leaf) is None:
            self.add_constant((untrack(leaf) * weight).sum(), serial)
            return
        known = self.leaves.get(id(leaf))
        self.leaves[id(leaf)] = (leaf, weight if known is None else known[1] + weight)

    def step(self) -> None:
        """Take the newest form apart."""
        _, key = heapq.heappop(self.heap)
        (serial, adjoint, operands), weight = self.forms.pop(key)
        shares = list(zip(operands, adjoint(weight), strict=True))
        for operand, share in reversed(shares):
            self.visit(operand, share, serial)


def _total(weight: Weight) -> Weight:
    return weight.detach().sum() if isinstance(weight, Tensor) else weight


def _term(leaf: Tensor, weight: Weight, precision: torch.dtype) -> Term:
    """Return a cost in no less precision than the loss: it may have been counted in integers."""
    exact = torch.promote_types(_floating(leaf), precision)
    floating = untrack(leaf).detach().to(exact)
    factor = weight.to(exact) if isinstance(weight, Tensor) else weight
    return Term((floating * factor).detach(), leaf, factor, provenance(leaf))


def _check(terms: list[Term], constant: float, loss: Tensor, start: Weight) -> None:
    """Raise unless the costs are finite and add up to the loss, within rounding."""
    whole = float((untrack(loss).detach() * start).sum())
    if terms:
        sums = torch.stack([t.value.sum().double() for t in terms])
        sizes = torch.stack([t.value.abs().sum().double() for t in terms])
        total, size = float(sums.sum()) + constant, float(sizes.sum()) + abs(constant)
    else:
        total = size = constant
    if not torch.isfinite(torch.tensor([size, whole])).all():
        for number, term in enumerate(terms):
            if not torch.isfinite(term.value).all():
                raise NonFiniteCostError(number, term)
    # Sums were rounded in the coarsest type on the way: truth values times 0.3 are in single.
    coarsest = max(_rounding(tensor) for tensor in (loss, *(term.leaf for term in terms)))
    # Pairwise sums of n numbers err by log n roundings, a loop over the terms by one each.
    if abs(total - whole) > (64 + len(terms)) * coarsest * max(size, abs(whole)):
        raise LossMismatchError(whole, total)


def _rounding(tensor: Tensor) -> float:
    """Return the relative error of one rounding of a tensor's type, or what it becomes."""
    return torch.finfo(_floating(tensor)).eps


def _floating(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.dtype.is_floating_point else torch.get_default_dtype()


def owned(terms: list[Term], scored: Collection[Node]) -> list[Term]:
    """Return the terms that are the own log-density, at its own draw, of a site with a score."""
    return [term for term in terms if getattr(term.leaf, "_scored", None) in scored]
