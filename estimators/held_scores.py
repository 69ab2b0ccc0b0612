"""Held scores: sites whose score function a loss holds already, so that it is no cost.

        L = log q(z) · ⊥(r)        ∇ L = r · ∇ log q(z),   and E[r] is what is meant

Such a loss is a surrogate, whose plain `backward` is right; as a cost it would get a second score.
It is told by its graph: from a product with something that has no gradient and lies downstream of
a draw, a chain of steps that densities are made of leads past the draw itself to the parameters
that it was drawn from. In a bound, E[log q(z) - log p(x, z)], nothing downstream is multiplied.
"""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from ancestral.estimators.scored_nodes import PLAIN, Met, ScoredNodes
from ancestral.estimators.terms import Term
from ancestral.provenance.algebra import Source, Sources, Universe
from ancestral.provenance.control import decisions_of
from ancestral.provenance.rules import tensors_in
from ancestral.trace.autograd import PASSED, Origin, leaves_of, scored_by, step_of, visited
from ancestral.trace.naming import Location
from ancestral.trace.node import Node


class HeldScoreWarning(UserWarning):
    """A loss that holds a score function already gets a second one."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Name the sites."""
        names = ", ".join(f"{node.name!r} ({node.location})" for node in nodes)
        super().__init__(
            f"the loss multiplies the log-density of {names} at its own draw by what is detached "
            "or was read by Python: it holds the score function already, and gets a second one "
            "here; call loss.backward() for it, or pass the costs themselves (without log_prob and "
            "detach), from which an.backward makes the score function"
        )


class StraightThroughWarning(UserWarning):
    """A site has a straight-through gradient, and gets a score function besides."""

    def __init__(self, node: Node, line: Location) -> None:
        """Name the site and the line."""
        super().__init__(
            f"what is computed at {line} has the value of site {node.name!r} ({node.location}) and "
            "a gradient to the very parameters of it by a path that adds nothing to the value (a "
            "straight-through estimator, x - x.detach()); with the score function of the site, the "
            "gradient is counted twice: call loss.backward() for the straight-through estimator "
            "alone, which is biased, or drop that path for an.backward"
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
        self._logarithms: set[Any] = set()

    @cached_property
    def found(self) -> list[Node]:
        """The sites, in program order."""
        by_draw = self._by_draw(is_read=False)
        found = {n for n in self._nodes if self._holding(n, by_draw.get(n.source))}
        rest = [node for node in self._nodes if node not in found and node.source in self._read]
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
        given = ScoredNodes(self._universe, is_read=is_read)
        factors = frozenset[Source]().union(*map(given.data_of, tensors_in(self._gradient)))
        nodes = ScoredNodes(self._universe, factors, is_read=is_read)
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
            if number in held:
                continue
            is_factor = PLAIN in met.factors if is_read else self._is_below(node, met.factors)
            if is_factor and self._is_scored(node, origin, met):
                held.add(number)
        return held

    def _is_scored(self, site: Node, origin: Origin, met: Met) -> bool:
        """Return whether the draw of a site is scored, on the way to a node, under these.

        The node is one of its parameters', or one made of the same leaves, as a new policy is.
        """
        is_discrete = getattr(getattr(site.fn, "support", None), "is_discrete", False)
        labels = met.labels if is_discrete else met.labels | met.distances
        if met.node in origin.near:
            # z * logits is a cost, unless softplus(logits) is subtracted from it.
            is_normalized = site.source in met.products and not origin.near.isdisjoint(
                visited(self._logarithms, PASSED)
            )
            return site.source in labels or is_normalized
        is_end = scored_by(met.node, self._universe) or step_of(met.node) not in PASSED
        is_new = site.source in labels and is_end
        return bool(is_new and origin.leaves & leaves_of([met.node]))

    def _is_below(self, node: Node, factors: Sources) -> bool:
        """Return whether any of some sources is a site, or what it reaches, decisions or not."""
        return node.source in factors or node.source in self._upstream(factors)

    def _upstream(self, factors: Sources) -> Sources:
        known = self._ancestors.get(factors)
        if known is None:
            found = self._universe.closure(factors)
            for node in reversed(self._everything):
                if node.inflow is not None and node.source in found:
                    found |= self._universe.closure(node.inflow.members)
            known = self._ancestors[factors] = frozenset(found)
        return known

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
        noted = decisions_of(self._universe).noted
        return self._upstream(frozenset[Source]().union(*(each.sources for each in noted)))

    @cached_property
    def _terms_of(self) -> dict[Source, set[int]]:
        """The terms that depend on each source, but for what Python decided."""
        found: dict[Source, set[int]] = {}
        nodes = ScoredNodes(self._universe, is_read=False)
        for number, term in enumerate(self._terms):
            for source in nodes.data_of(term.leaf):
                found.setdefault(source, set()).add(number)
        return found
