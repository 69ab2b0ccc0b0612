"""Scored nodes: where the graph of a loss, below a detached factor, takes a draw as what is scored.

From each term down, the steps are followed that densities and their sums are made of.
"""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from torch import Tensor

from ancestral.estimators.terms import Term
from ancestral.provenance.algebra import Source, Sources, Universe
from ancestral.provenance.control import as_data
from ancestral.provenance.tensor import provenance, raw
from ancestral.provenance.torch_internals import DisableTorchDispatch
from ancestral.trace.autograd import (
    CONTRACTIONS,
    LOGARITHMS,
    OF_DISTANCES,
    OF_LABELS,
    PASSED,
    PRODUCTS,
    history,
    is_learned,
    scored_by,
    step_of,
)

PLAIN = Source("a number that Python may have read", ())
"""Stands for factors without provenance, or with that of decisions only."""


class Met(NamedTuple):
    """A node of the graph, and what stands above it.

    `factors` are what the detached factors depend on, the rest what was scored below one: by an op
    that takes labels, or by a product with a logarithm; by a product; by a distance. `mixed` is
    what an operand depends on that may be a factor and a label in one.
    """

    node: Any
    factors: Sources = frozenset()
    labels: Sources = frozenset()
    products: Sources = frozenset()
    distances: Sources = frozenset()
    mixed: Sources = frozenset()


class ScoredNodes:
    """The nodes of the graphs of some terms, and what stands above them.

    All terms stand below what depends on `factors`. With `is_read`, a factor that depends on no
    draw counts as one that depends on `PLAIN`.
    """

    def __init__(
        self, universe: Universe, factors: Sources = frozenset(), *, is_read: bool
    ) -> None:
        """Take the recording whose draws are scored."""
        self._universe = universe
        self._factors = factors
        self._is_read = is_read
        self.logarithms: set[Any] = set()
        """The nodes of logarithms below a factor, which normalize a density."""

    @cached_property
    def _by_name(self) -> dict[str, Source]:
        return {source.name: source for source in self._universe.sources}

    def of(self, term: Term) -> Iterator[Met]:
        """Yield what is met from a term down, below some factor and something that was scored."""
        pending, seen = self._starts(term), set[Met]()
        data = self.data_of(term.leaf) if pending else frozenset()
        while pending:
            met = pending.pop()
            if met in seen:
                continue
            seen.add(met)
            after, is_passed = self._after(met, data)
            if after.labels or after.products or after.distances:
                yield after
            if is_passed:
                for child, _ in met.node.next_functions:
                    if child is not None:
                        pending.append(after._replace(node=child))

    def _starts(self, term: Term) -> list[Met]:
        """Return where a term begins: the product of its leaf, and of a weight that is learned."""
        found: list[Met] = []
        start, weight = history(term.leaf), term.weight
        if start is not None:
            is_read = self._is_read and (isinstance(weight, Tensor) or abs(weight) != 1)
            found.append(Met(start, self._factors | {PLAIN} if is_read else self._factors))
        if isinstance(weight, Tensor) and weight.grad_fn is not None:
            data = self.data_of(term.leaf)
            found.append(
                Met(weight.grad_fn, data, mixed=frozenset() if _is_whole(term.leaf) else data)
            )
        return found

    def _after(self, met: Met, data: Sources) -> tuple[Met, bool]:
        """Return a node with what stands at it, and whether what is below it belongs to it."""
        names = scored_by(met.node, self._universe)
        if names is None:
            step = step_of(met.node)
            return self._at(met, step, data), step in PASSED
        draws = {self._by_name[name] for name in names if name in self._by_name}
        return met._replace(labels=met.labels | draws if met.factors else met.labels), False

    def _at(self, met: Met, step: str, data: Sources) -> Met:
        """Return a node with what a step adds."""
        if step in CONTRACTIONS:  # what torch makes of an einsum has no provenance
            return met._replace(factors=met.factors | self._given(met.node, data))
        if step in PRODUCTS:
            given = self._given(met.node)
            is_whole = all(_is_whole(kept) for kept in _constants(met.node)) if given else True
            scored = met.products | given if met.factors and is_whole else met.products
            mixed = met.mixed if is_whole else met.mixed | given
            return met._replace(factors=met.factors | given, products=scored, mixed=mixed)
        if step in OF_LABELS:
            weight = getattr(met.node, "_saved_weight", None)
            factors = met.factors if weight is None else met.factors | self._of(weight)
            labels = met.labels | self._given(met.node) if factors else met.labels
            return met._replace(factors=factors, labels=labels)
        if step in OF_DISTANCES and met.factors:
            found = frozenset[Source]().union(*map(self._of, _kept(met.node)))
            return met._replace(distances=met.distances | found)
        if step in LOGARITHMS and met.factors:
            self.logarithms.add(met.node)
            return met._replace(labels=met.labels | met.products | met.mixed)
        return met

    def _given(self, node: Any, unknown: Sources = frozenset()) -> Sources:
        """Return what the tensors without history that a node keeps depend on."""
        return frozenset[Source]().union(*(self._of(t) or unknown for t in _constants(node)))

    def _of(self, tensor: Tensor) -> Sources:
        found = self.data_of(tensor)
        return found or (frozenset({PLAIN}) if self._is_read else found)

    def data_of(self, tensor: Tensor) -> Sources:
        """Return the sites that a tensor depends on, but for what Python decided."""
        found = provenance(tensor)
        if found is None or found.universe is not self._universe:
            return frozenset()
        return frozenset(as_data(self._universe, found.members))


def _kept(node: Any) -> Iterator[Tensor]:
    """Yield the tensors that autograd keeps for a node, none where they are freed."""
    kind: Any = type(node)
    for name in _slots(kind):
        try:
            with DisableTorchDispatch():  # an auditor has nothing to learn of what is looked at
                kept = getattr(node, name)
        except RuntimeError:
            continue
        for item in kept if isinstance(kept, tuple | list) else (kept,):
            if isinstance(item, Tensor):
                yield item


def _constants(node: Any) -> Iterator[Tensor]:
    """Yield those without a gradient."""
    return (tensor for tensor in _kept(node) if not is_learned(tensor))


def _is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor has whole numbers, as what was drawn of a finite set has."""
    plain: Tensor = raw(Tensor.detach, tensor)
    return not plain.is_floating_point() or bool((plain == plain.round()).all())


@lru_cache(maxsize=1024)
def _slots(kind: Any) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_saved_"))
