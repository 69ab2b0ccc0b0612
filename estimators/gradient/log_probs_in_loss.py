"""Held scores: sites whose score function a loss holds already, so that it is no cost.

        L = log q(z) · ⊥(r)        ∇ L = r · ∇ log q(z),   and E[r] is what is meant

Such a loss is a surrogate, whose plain `backward` is right; as a cost it would get a second score.
Its graph shows it: from a product with something that has no gradient and lies downstream of
a draw, a chain of steps that densities are made of leads past the draw itself to the parameters
that it was drawn from. One that leads through the value of a draw of `rsample` does not: it is the
pathwise derivative of a cost. In a bound, E[log q(z) - log p(x, z)], nothing downstream is
multiplied.
"""

from collections.abc import Collection, Iterable, Iterator
from functools import cached_property
from typing import Any, NamedTuple

from torch import Tensor

from ancestral.estimators.gradient.loss_terms import Term
from ancestral.estimators.pathwise.routes import edges_of_gates
from ancestral.provenance.algebra.provenance import Source, Sources, Universe
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.tensor.arguments import tensors_in
from ancestral.provenance.tensor.control_flow import as_data, decisions_of
from ancestral.provenance.tensor.tensor import provenance, raw
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.graph.find_plates import kept
from ancestral.trace.nodes.autograd_graph import (
    CONTRACTIONS,
    LOGARITHMS,
    OF_DISTANCES,
    OF_LABELS,
    PASSED,
    POOLING,
    PRODUCTS,
    Edge,
    Origin,
    below,
    history,
    is_learned,
    is_of_sum,
    kept_by,
    leaves_of,
    saved_by,
    scored_by,
    step_of,
    visited,
)
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.support import is_discrete

PLAIN = Source("a number that Python may have read", ())
"""Stands for factors without provenance, or with that of decisions only."""

_FACTORING = CONTRACTIONS | PRODUCTS


class Met(NamedTuple):
    """A node of the graph, and what stands above it.

    `factors` are what the detached factors depend on, the rest what was scored below one: by an op
    that takes labels, or by a product with a logarithm; by a product; by a distance. `mixed` is
    what an operand depends on that may be a factor and a label in one. `pooled` are the sites over
    whose draws the logarithm of a sum is taken, which is the log-density of none of them.
    """

    node: Any
    factors: Sources = frozenset()
    labels: Sources = frozenset()
    products: Sources = frozenset()
    distances: Sources = frozenset()
    mixed: Sources = frozenset()
    pooled: Sources = frozenset()


class ScoredNodes:
    """The nodes of the graphs of some terms, and what stands above them.

    All terms stand below what depends on `factors`. Nothing is met beyond the edges that are
    `shut`. With `is_read`, a factor that depends on no draw counts as one that depends on `PLAIN`.
    """

    def __init__(
        self,
        universe: Universe,
        factors: Sources = frozenset(),
        shut: Collection[Edge] = (),
        *,
        is_read: bool,
    ) -> None:
        self._universe = universe
        self._factors = factors
        self._shut = shut
        self._is_read = is_read
        self.logarithms: set[Any] = set()
        """The nodes of logarithms below a factor, which normalize a density."""

    @cached_property
    def _by_name(self) -> dict[str, Source]:
        return {source.name: source for source in self._universe.sources}

    def of(self, term: Term) -> Iterator[Met]:
        """Yield what is met from a term down, below some factor and something that was scored."""
        pending, seen = self._starts(term), set[Met]()
        while pending:
            met = pending.pop()
            if met in seen:
                continue
            seen.add(met)
            after, is_passed = self._after(met, term)
            if after.labels or after.products or after.distances:
                yield after
            if is_passed:
                above = after[1:]
                pending += [
                    Met(edge[0], *above)
                    for edge in below(met.node)
                    if edge[0] is not None and edge not in self._shut
                ]

    def _starts(self, term: Term) -> list[Met]:
        """Return where a term begins: the product of its leaf, and of a weight that is learned."""
        found: list[Met] = []
        start, weight = history(term.leaf), term.weight
        if start is not None and not self._is_read and not self._factors:
            found += map(Met, self._first_factors(start))
        elif start is not None:
            is_read = self._is_read and (isinstance(weight, Tensor) or abs(weight) != 1)
            found.append(Met(start, self._factors | {PLAIN} if is_read else self._factors))
        if isinstance(weight, Tensor) and weight.grad_fn is not None:
            data = self.data_of(term.leaf)
            found.append(
                Met(weight.grad_fn, data, mixed=frozenset() if _is_whole(term.leaf) else data)
            )
        return found

    def _first_factors(self, start: Any) -> Iterator[Any]:
        """Yield the first nodes from one down that may have a factor: nothing is held above."""
        pending, seen = [start], set[Any]()
        while pending:
            node = pending.pop()
            if node in seen or scored_by(node, self._universe) is not None:
                continue
            seen.add(node)
            step = step_of(node)
            if step in _FACTORING or (
                step in OF_LABELS and saved_by(node, "_saved_weight") is not None
            ):
                yield node
            elif step in PASSED:
                pending += [
                    edge[0]
                    for edge in below(node)
                    if edge[0] is not None and edge not in self._shut
                ]

    def _after(self, met: Met, term: Term) -> tuple[Met, bool]:
        """Return a node with what stands at it, and whether what is below it belongs to it."""
        names = scored_by(met.node, self._universe)
        if names is None:
            step = step_of(met.node)
            return self._at(met, step, term), step in PASSED
        if not met.factors:
            return met, False
        draws = {self._by_name[name] for name in names if name in self._by_name}
        return met._replace(labels=met.labels | draws), False

    def _at(self, met: Met, step: str, term: Term) -> Met:
        """Return a node with what a step adds."""
        if step in CONTRACTIONS:  # what torch makes of an einsum has no provenance
            given = self._given(met.node, self.data_of(term.leaf))
            return met._replace(factors=met.factors | given)
        if step in PRODUCTS:
            given = self._given(met.node)
            is_whole = all(_is_whole(held) for held in _constants(met.node)) if given else True
            scored = met.products | given if met.factors and is_whole else met.products
            mixed = met.mixed if is_whole else met.mixed | given
            return met._replace(factors=met.factors | given, products=scored, mixed=mixed)
        if step in OF_LABELS:
            weight = saved_by(met.node, "_saved_weight")
            factors = met.factors if weight is None else met.factors | self._of(weight)
            if not factors:
                return met
            labels = met.labels | self._given(met.node)
            return met._replace(factors=factors, labels=labels)
        if step in OF_DISTANCES and met.factors:
            found = frozenset[Source]().union(*map(self._of, kept_by(met.node)))
            return met._replace(distances=met.distances | found)
        if self._is_read:
            met = met._replace(pooled=met.pooled | self._pooled(met.node, step))
        if step in LOGARITHMS and met.factors:
            self.logarithms.add(met.node)
            return met._replace(labels=met.labels | met.products | met.mixed)
        return met

    def _pooled(self, node: Any, step: str) -> Sources:
        """Return the sites over whose draws a logarithm of a sum is taken, or a maximum."""
        is_log = step == "log" and is_of_sum(node)
        found = provenance(saved_by(node, "_saved_self")) if step in POOLING or is_log else None
        if found is None or found.universe is not self._universe:
            return frozenset()
        ndim = len(found.shape)
        dims = () if is_log else getattr(node, "_saved_dim", range(ndim))
        # Autograd keeps a dimension counted from the right as an unsigned number.
        gone = {(d - 2**64 if d >= 2**63 else d) % max(ndim, 1) for d in dims}
        return frozenset(
            source
            for source, alignments in claimed(found).items()
            for places in map(kept, alignments)
            if not {d for d, size in enumerate(source.shape) if size > 1}
            <= {place for d, place in enumerate(places) if d not in gone}
        )

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


def _constants(node: Any) -> Iterator[Tensor]:
    """Yield those without a gradient."""
    return (tensor for tensor in kept_by(node) if not is_learned(tensor))


def _is_whole(tensor: Tensor) -> bool:
    """Return whether a tensor has whole numbers, as what was drawn of a finite set has."""
    plain: Tensor = raw(detach, tensor)
    return not plain.is_floating_point() or bool((plain == plain.round()).all())


class HeldScoreWarning(UserWarning):
    """A loss that holds a score function already gets a second one."""


def held_score_warning(nodes: Iterable[Node]) -> HeldScoreWarning:
    """Return the warning, with the sites."""
    names = ", ".join(f"{node.name!r} ({node.location})" for node in nodes)
    return HeldScoreWarning(
        f"the loss multiplies the log-density of {names} at its own draw by what is detached "
        "or was read by Python: it holds the score function already, and gets a second one "
        "here; call loss.backward() for it, or pass the costs themselves (without log_prob and "
        "detach), from which an.backward makes the score function"
    )


class HeldScores:
    """The sites of a recording whose score function some terms of a loss hold."""

    def __init__(
        self,
        universe: Universe,
        nodes: Iterable[Node],
        terms: Iterable[Term],
        gradient: object = None,
    ) -> None:
        """Take the sites in question, the terms of the loss, and what each of its elements counts.

        The last are tensors in any nesting.
        """
        self._gradient = gradient
        self._universe = universe
        self._nodes = list(nodes)
        self._terms = list(terms)
        self._noted = decisions_of(universe).noted
        self._logarithms: set[Any] = set()

    @cached_property
    def found(self) -> list[Node]:
        """The sites, in program order."""
        if not self._nodes:
            return []
        by_draw = self._by_draw(is_read=False)
        found = {n for n in self._nodes if self._holding(n, by_draw.get(n.source))}
        rest = [n for n in self._nodes if n not in found] if self._noted else []
        rest = [node for node in rest if node.source in self._read]
        if rest:
            by_draw = self._by_draw(is_read=True)
            for node in rest:
                held = self._holding(node, by_draw.get(node.source), is_read=True)
                # What Python read may be a reward, or the weight of a bound, whose other terms the
                # draw reaches as data. That of a policy, Python acted on.
                if held and held >= self._terms_of.get(node.source, set()):
                    found.add(node)
        return [node for node in self._nodes if node in found]

    def _by_draw(self, *, is_read: bool) -> dict[Source, list[tuple[int, Met]]]:
        """Return what is met below a factor and a draw that is scored, with the term, by draw."""
        found: dict[Source, list[tuple[int, Met]]] = {}
        factors = frozenset[Source]()
        if self._gradient is not None:
            given = ScoredNodes(self._universe, is_read=is_read)
            factors = factors.union(*map(given.data_of, tensors_in(self._gradient)))
        nodes = ScoredNodes(self._universe, factors, self._shut, is_read=is_read)
        for number, term in enumerate(self._terms):
            for met in nodes.of(term):
                for source in met.labels | met.products | met.distances:
                    found.setdefault(source, []).append((number, met))
        self._logarithms = nodes.logarithms
        return found

    def _holding(
        self, node: Node, mets: list[tuple[int, Met]] | None, *, is_read: bool = False
    ) -> set[int]:
        """Return the terms that hold the score of a site."""
        if mets is None:
            return set()
        origin, held = Origin(node.fn), set[int]()
        for number, met in mets:
            if number in held or node.source in met.pooled:
                continue
            is_factor = PLAIN in met.factors if is_read else self._is_below(node, met.factors)
            if is_factor and self._is_scored(node, origin, met):
                held.add(number)
        return held

    def _is_scored(self, site: Node, origin: Origin, met: Met) -> bool:
        """Return whether the draw of a site is scored, on the way to a node, under these.

        The node is one of its parameters', or one made of the same leaves, as a new policy is.
        """
        labels = met.labels if is_discrete(site.fn) else met.labels | met.distances
        if met.node in origin.near:
            # z * logits is a cost, unless softplus(logits) is subtracted from it.
            is_normalized = site.source in met.products and not origin.near.isdisjoint(
                visited(self._logarithms, PASSED, self._shut)
            )
            return site.source in labels or is_normalized
        is_end = scored_by(met.node, self._universe) or step_of(met.node) not in PASSED
        is_new = site.source in labels and is_end
        return bool(is_new and origin.leaves & leaves_of([met.node], self._shut))

    def _is_below(self, node: Node, factors: Sources) -> bool:
        """Return whether any of some sources is a site, or what it reaches, decisions or not."""
        return node.source in factors or node.source in self._upstream(factors)

    def _upstream(self, factors: Sources) -> Sources:
        known = self._ancestors.get(factors)
        if known is None:
            found = self._universe.closure(factors)
            for node in reversed(self._everything):
                if node.param_provenance is not None and node.source in found:
                    found |= self._universe.closure(node.param_provenance.members)
            known = self._ancestors[factors] = frozenset(found)
        return known

    @cached_property
    def _shut(self) -> frozenset[Edge]:
        """The edges to the values of the sites: what lies beyond is no score."""
        edges = edges_of_gates(self._nodes).values()
        return frozenset((edge.node, edge.output_nr) for edge in edges)

    @cached_property
    def _ancestors(self) -> dict[Sources, Sources]:
        return {}

    @cached_property
    def _everything(self) -> tuple[Node, ...]:
        trace: Any = self._universe.owner
        return tuple(trace.everything)

    @cached_property
    def _read(self) -> Sources:
        """The sources of what Python read, and what these depend on."""
        return self._upstream(frozenset[Source]().union(*(each.sources for each in self._noted)))

    @cached_property
    def _terms_of(self) -> dict[Source, set[int]]:
        """The terms that depend on each source, but for what Python decided."""
        found: dict[Source, set[int]] = {}
        nodes = ScoredNodes(self._universe, is_read=False)
        for number, term in enumerate(self._terms):
            for source in nodes.data_of(term.leaf):
                found.setdefault(source, set()).add(number)
        return found
