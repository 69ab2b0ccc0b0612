"""Loss terms: one scalar taken apart into the costs that it is a weighted sum of.

        loss = constant + sum_j sum_t w_j[t] c_j[t]

The linear forms that tensors carry are walked from the loss down, newest first, each weight being
turned into the weights of the operands by the adjoint of the step. What no form explains is a term.
The terms must add up to the loss.
"""

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ancestral.estimators.gradient.decompose import Constant, Walk, blamed
from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.tensor.linear_form import OverwrittenError, Weight
from ancestral.provenance.tensor.tensor import provenance, raw, untrack
from ancestral.provenance.tensor.torch_internals import detach, read_history, runs_ahead
from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Location
from ancestral.trace.graph.graph import Vertex
from ancestral.trace.nodes.autograd_graph import history


class LossMismatchError(RuntimeError):
    """The terms that a loss was taken apart into do not add up to it."""


class NonFiniteCostError(SiteError):
    """A cost, or the loss that is made of the costs, is NaN or infinite."""

    @classmethod
    def of_term(cls, number: int, term: "Term") -> "NonFiniteCostError":
        """Describe the term that is not finite."""
        bad = int((~torch.isfinite(term.value)).sum())
        return cls(
            f"term {number} of the loss, {describe(term)}, has {bad} of {term.value.numel()} "
            "elements that are NaN or infinite; every score downstream of it would be lost: mend "
            "the cost, or mask it with torch.where before it is summed"
        )

    @classmethod
    def of_loss(cls, loss: float, made: str | None) -> "NonFiniteCostError":
        """Say that a loss is not finite although its terms are, and what made it so if known."""
        return cls(
            f"the loss is {loss}, though no element of its terms is NaN or infinite: "
            f"{made or 'a step of it'} has no finite result here, as the mean of an empty "
            "selection has none; leave such a step out, or take torch.zeros(()) in its place"
        )


@dataclass(frozen=True, eq=False, slots=True)
class Term:
    """One cost of a loss.

    `value` is weighted and plain, [*shape]; `leaf` is the tensor that it came from, with its
    history; `weight` the constant that the loss multiplies it with. `is_picked` says that elements
    which weigh nothing were left out by the loss, whatever they are.
    """

    value: Tensor
    leaf: Tensor
    weight: Weight
    provenance: Provenance | None
    is_picked: bool = False

    @property
    def made(self) -> str:
        """What the cost was made by, as far as it can be told."""
        return op_name(self.leaf)

    @property
    def live(self) -> Tensor:
        """The weighted cost with its autograd history, [*shape]."""
        leaf = untrack(self.leaf)
        if self.is_picked and isinstance(self.weight, Tensor):
            leaf = leaf.where(detach(self.weight) != 0, 0)
        return leaf * self.weight


def describe(term: Term) -> str:
    """Return what a person can find a term by: its op, its shape, its sources."""
    op = f"made by {term.made}" if term.made else "a leaf"
    names = [] if term.provenance is None else [repr(s.name) for s in term.provenance.sources]
    return f"{op}, of shape {list(term.value.shape)}, depending on {', '.join(names) or 'no site'}"


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
    costs, walk, whole = _taken_apart(loss, weight)
    constant = walk.constant
    return Parts(_checked(costs, constant, whole), constant, tuple(walk.constants))


Check = Callable[[], object]
"""Raises where the numbers of a loss are not what they are taken for."""


def known() -> None:
    """Check nothing: all was checked before."""


def parts_of(loss: Tensor, weight: Tensor | None) -> tuple[list[Term], list[Constant], Check]:
    """Return the terms and the constants of `terms_of`, and the check that is to be made of them.

    Where its device runs ahead of Python, the check waits for it, and is to be made when all else
    is queued on the device; elsewhere it was made.
    """
    costs, walk, whole = _taken_apart(loss, weight)
    if not runs_ahead(whole.plain):
        return _checked(costs, walk.constant, whole), walk.constants, known
    values, _ = raw(_weighted, costs)
    terms = [
        Term(_unpicked(cost, value), cost.leaf, cost.weight, provenance(cost.leaf), is_picked=True)
        for value, cost in zip(values, costs, strict=True)
    ]
    return terms, walk.constants, lambda: _checked(costs, walk.constant, whole)


def _taken_apart(loss: Tensor, weight: Tensor | None) -> tuple[list["_Cost"], Walk, "_Cost"]:
    start: Weight = 1.0 if weight is None else detach(untrack(weight))
    walk = _walked(loss, start)
    # The newest were met first: a reader expects the order of the program.
    pending = [(each.operand, each.total) for each in reversed(walk.leaves.values())]
    whole, costs = raw(_costs, loss, start, pending)
    return costs, walk, whole


def unchecked(loss: Tensor) -> list[Term]:
    """Return the terms of the sum of a loss, whatever they are and add up to."""
    leaves = _walked(loss, 1.0).leaves.values()
    return [
        Term(each.operand, each.operand, each.total, provenance(each.operand)) for each in leaves
    ]


def _walked(loss: Tensor, start: Weight) -> Walk:
    walk = Walk()
    try:
        walk.run(loss, start)
    except OverwrittenError:  # what it was made of is no longer there: the loss is one cost
        walk = Walk()
        walk.add_leaf(loss, start, -1)
    return walk


def made_by(terms: Sequence[Term]) -> tuple[str, ...]:
    """Return what each cost was made by, as far as it can be told."""
    nodes: list[Any] = raw(lambda: [read_history(term.leaf) for term in terms])
    return tuple(["" if node is None else _spelt(node.name()) for node in nodes])


def vertices_of(terms: Iterable[tuple[Term, str]]) -> list[tuple[Vertex, Provenance]]:
    """Return terms, with what made them, as costs of a graph, but for the densities of a site."""
    return [
        (_vertex(made, tuple(term.value.shape)), term.provenance)
        for term, made in terms
        if term.provenance is not None and getattr(term.leaf, "_scored", None) is None
    ]


@lru_cache(maxsize=1024)
def _vertex(made: str, shape: Shape) -> Vertex:
    return Vertex("cost", "cost", made, shape, _NOWHERE)


def op_name(leaf: Tensor) -> str:
    """Return the op that a tensor was made by, as autograd knows it.

    >>> op_name(torch.zeros(2, requires_grad=True).exp())
    'exp'
    """
    made = history(leaf)
    return "" if made is None else _spelt(made.name())


@lru_cache(maxsize=1024)
def _spelt(name: str) -> str:
    camel = re.sub(r"Backward\d*$", "", name)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", camel).lower()


_NOWHERE = Location("<loss>", 0, "")


class _Cost(NamedTuple):
    """A leaf in no less precision than the loss: it may have been counted in integers.

    `dtype` is that of one rounding of it.
    """

    leaf: Tensor
    plain: Tensor
    weight: Weight
    dtype: torch.dtype


def _costs(
    loss: Tensor, start: Weight, pending: Sequence[tuple[Tensor, Weight]]
) -> tuple[_Cost, list[_Cost]]:
    """Return a loss and its leaves, each with its weight."""
    whole = _cost(loss, start, torch.get_default_dtype())
    return whole, [_cost(leaf, weight, whole.dtype) for leaf, weight in pending]


def _cost(leaf: Tensor, weight: Weight, precision: torch.dtype) -> _Cost:
    plain = detach(leaf)
    dtype = plain.dtype
    if dtype is precision and not (isinstance(weight, Tensor) and weight.dtype is not dtype):
        return _Cost(leaf, plain, weight, dtype)
    dtype = _floating(plain)
    exact = torch.promote_types(dtype, precision)
    if plain.dtype != exact:
        plain = plain.to(exact)
    return _Cost(leaf, plain, weight.to(exact) if isinstance(weight, Tensor) else weight, dtype)


_SMALL, _MANY, _FEW_ELEMENTS = 16, 8, 2**16


def _weighted(costs: list[_Cost]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the weighted costs, and fewer tensors with the same elements, for their sums.

    Small ones of one shape are multiplied and summed together: a rollout has thousands.
    """
    if len(costs) < _MANY:
        values = [_counted(cost) for cost in costs]
        return values, _side_by_side(values)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, (_, plain, weight, _) in enumerate(costs):
        is_small = plain.numel() <= _SMALL and getattr(weight, "shape", plain.shape) == plain.shape
        if is_small:
            key = (plain.shape, plain.dtype, plain.device, type(weight))
            groups.setdefault(key, []).append(number)
    values = [cost.plain for cost in costs]
    together: list[Tensor] = []
    apart = set(range(len(costs)))
    for (_, dtype, device, kind), members in groups.items():
        if len(members) >= _MANY:
            stack = torch.stack([values[number] for number in members])
            weights: list[Any] = [costs[number].weight for number in members]
            together.append(stack)
            apart.difference_update(members)
            if kind is Tensor:
                stack = stack * detach(torch.stack(weights))
            elif {*weights} == {1}:
                continue  # they are what they are, without a view of the stack for each
            else:
                factors = torch.tensor(weights, dtype=dtype).to(device, non_blocking=True)
                stack = stack * factors.reshape(-1, *[1] * (stack.ndim - 1))
            for number, value in zip(members, stack.unbind(), strict=True):
                values[number] = value
            together[-1] = stack
    for number in apart:
        values[number] = _counted(costs[number])
    return values, together + _side_by_side([values[number] for number in apart])


def _counted(cost: _Cost) -> Tensor:
    """Return a cost as it counts."""
    _, plain, weight, _ = cost
    if isinstance(weight, Tensor):
        return detach(plain * weight)
    return plain if weight == 1 else plain * weight


def _summed(costs: list[_Cost]) -> tuple[list[Tensor], list[Tensor], float]:
    """Return what `_weighted` does, and the sum of all elements."""
    values, together = _weighted(costs)
    return values, together, _sum(together)


def _side_by_side(values: list[Tensor]) -> list[Tensor]:
    """Return tensors with the same elements, fewer of them, to be summed by fewer ops."""
    if len(values) < 2 or sum([value.numel() for value in values]) > _FEW_ELEMENTS:
        return values
    if len({(value.dtype, value.device) for value in values}) > 1:
        return values
    return [torch.cat([value.reshape(-1) for value in values])]


def _sum(values: Sequence[Tensor]) -> float:
    """Return the sum of all elements, which is not finite where one of them is not."""
    sums = [value.sum(dtype=torch.float64) for value in values]
    if len(sums) > 1:
        sums = [torch.stack([each.cpu() for each in sums]).sum()]
    return float(sums[0]) if sums else 0.0


def _unpicked(cost: _Cost, value: Tensor) -> Tensor:
    """Return a weighted cost without the elements that the loss does not pick.

    An element that is left out may be infinite: nothing times infinity is no number.
    """
    return value.where(cost.weight != 0, 0) if isinstance(cost.weight, Tensor) else value


def _checked(costs: list[_Cost], constant: float, loss: _Cost) -> list[Term]:
    """Return the terms; raise unless they are finite and add up to the loss, within rounding."""
    whole = _whole(loss)
    values, together, total = raw(_summed, costs)
    # Sums were rounded in the coarsest type on the way: truth values times 0.3 are in single.
    # Pairwise sums of n numbers err by log n roundings, a loop over the terms by one each.
    rounding = (64 + len(costs)) * _coarsest({loss.dtype, *map(attrgetter("dtype"), costs)})
    # A sum is finite if all of its elements are; their sizes are asked for if more is to be known.
    is_right = math.isfinite(total) and abs(total + constant - whole) <= rounding * abs(whole)
    size = abs(total) if is_right else raw(_sum, [value.abs() for value in together])
    is_picked = math.isfinite(whole) and not math.isfinite(size)
    if is_picked:
        values = [_unpicked(*pair) for pair in zip(costs, values, strict=True)]
        total, size = _sum(values), _sum([value.abs() for value in values])
    terms = [
        Term(value, cost.leaf, cost.weight, provenance(cost.leaf), is_picked)
        for value, cost in zip(values, costs, strict=True)
    ]
    if is_right:
        return terms
    if not math.isfinite(size):
        for number, term in enumerate(terms):
            if not torch.isfinite(term.value).all():
                raise NonFiniteCostError.of_term(number, term)
    if not math.isfinite(whole):
        raise NonFiniteCostError.of_loss(whole, blamed(loss.leaf, loss.weight).text)
    error = abs(total + constant - whole)
    if not error <= rounding * max(size + abs(constant), abs(whole)):
        blame = blamed(loss.leaf, loss.weight)
        # Weights that cancel leave rounding errors of what they were before, and a number that is
        # added to constants in single, in place or as a scalar, is rounded to it.
        rounding = max(rounding, (64 + len(terms)) * _coarsest(set(map(_floating, blame.tensors))))
        if blame.text or not error <= rounding * blame.size:
            why = (
                f"{blame.text} was not taken apart right; that is a defect of the library, please "
                "report it"
                if blame.text
                else "a tensor that the loss was computed from was overwritten since, through "
                "another tensor on the same memory; clone it before the write, or take the "
                "gradient before"
            )
            raise LossMismatchError(
                f"the terms of the loss add up to {total + constant!r}, but the loss is {whole!r}: "
                f"{why}"
            )
    return terms


def _whole(loss: _Cost) -> float:
    """Return the sum of the elements of the loss as they count."""
    if loss.plain.ndim == 0 and not isinstance(loss.weight, Tensor):
        return float(loss.plain) * loss.weight
    return float((loss.plain * loss.weight).sum())


def _coarsest(dtypes: Collection[torch.dtype]) -> float:
    """Return the relative error of one rounding in the coarsest of some types."""
    return max(map(_eps, dtypes), default=0.0)


@lru_cache(maxsize=64)
def _eps(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps


def _floating(tensor: Tensor) -> torch.dtype:
    """Return the type of a tensor, or what it becomes when it meets the loss."""
    dtype = tensor.dtype
    return dtype if dtype.is_floating_point else torch.get_default_dtype()
