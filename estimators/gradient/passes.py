"""Passes: what one pass of autograd differentiates of a loss and of its scores.

        ∇ E[Σ_j c_j] = Σ_p ∇ E[C_p],   C_p: terms, and scores with their credit

The gradient is linear, so that each term may be estimated in its own way: with the values of some
draws held fixed, whose scores take their place, and pathwise through all others. A term, and the
score of a site for some terms, needs the gates of the draws that it reaches to be shut or open, and
does not mind the others: those that agree share a pass. On a chain each term holds all draws before
its own fixed, but it reaches the last of them only.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator
from ancestral.estimators.diagnostics.observer import Score, Scores
from ancestral.estimators.gradient.loss_terms import Term
from ancestral.estimators.gradient.partial_credit import (
    credit_for,
    credits_of,
    fixed_by_term,
    owned,
)
from ancestral.estimators.gradient.problem import Problem
from ancestral.estimators.gradient.score_function import (
    NO_DENSITIES,
    NO_WEIGHTS,
    product,
    products,
)
from ancestral.estimators.pathwise.routes import Gates, Reached, holding
from ancestral.provenance.tensor.linear_form import Weight
from ancestral.provenance.tensor.tensor import untrack
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.graph.reachability import Closure, downstream
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.nodes.node import Node


@dataclass(eq=False)
class Pass:
    """Terms, by their numbers, and credits that agree about the gates of the draws they reach.

    Of `owned`, the own gradient has mean zero. `held` and `passed` are the draws that are reached,
    of those that are scored for some terms of the loss only. `scores` are densities that take the
    place of those of the sites.
    """

    gates: Gates
    terms: dict[int, Term] = field(default_factory=dict[int, Term])
    owned: list[Term] = field(default_factory=list[Term])
    credits: list[Credit] = field(default_factory=list[Credit])
    held: frozenset[Node] = frozenset()
    passed: frozenset[Node] = frozenset()
    scores: dict[str, Tensor] = field(default_factory=dict[str, Tensor])

    def loss(self, problem: Problem) -> Tensor:
        """Return the sum of the terms, with its history, []."""
        if not problem.partly and not self.scores:
            return problem.loss
        lives = [term.live.sum().to(problem.loss) for term in self.terms.values()]
        return torch.stack(lives).sum() if lives else torch.zeros_like(problem.loss)

    def products(
        self,
        problem: Problem,
        less: Sequence[Tensor | None],
        densities: Mapping[Node, Tensor] = NO_DENSITIES,
        own: Mapping[Node, Weight] = NO_WEIGHTS,
    ) -> Iterator[Tensor]:
        """Yield what adds up to the sum over the credits of score times (credit minus baseline).

        Args:
            problem: the problem.
            less: the baseline of each credit.
            densities: those at the draws of sites that are there already.
            own: what the loss multiplies some of these with, which is taken off.
        """
        pairs = [(problem.nodes[credit.name], credit) for credit in self.credits]
        if not self.scores:
            return products(pairs, less, densities, own)
        known = zip(pairs, less, strict=True)
        return (product(n, c, some, self.scores[n.name]) for (n, c), some in known)

    def owning(self, densities: Mapping[Node, Tensor]) -> tuple[dict[Node, Weight], list[Tensor]]:
        """Return how the owned terms lose their own gradient: the score has mean zero.

        By what is taken off the credit of a site whose density is there, and by what is added to
        the loss for the others. A learned coefficient of a score has its own gradient.
        """
        weights: dict[Node, Weight] = {}
        rest: list[Tensor] = []
        credited = {credit.name for credit in self.credits}
        for term in self.owned:
            node: Node = term.leaf._scored  # type: ignore[attr-defined]
            weight = detach(term.weight) if isinstance(term.weight, Tensor) else term.weight
            if node in densities and node.name in credited and node not in weights:
                weights[node] = weight
            else:
                rest.append(-(untrack(term.leaf) * weight).sum())
        return weights, rest

    def holding(self, problem: Problem, draws: Collection[Node]) -> "Pass":
        """Return the same with derivatives, up to the highest, that hold some draws fixed."""
        if not draws:
            return self
        names = [credit.name for credit in self.credits]
        weights = [term.weight for term in self.owned if isinstance(term.weight, Tensor)]
        found = iter(
            holding(
                [
                    *(term.live for term in self.terms.values()),
                    *(untrack(term.leaf) for term in self.owned),
                    *weights,
                    *(problem.nodes[name].score for name in names),
                ],
                draws,
            )
        )
        terms = {
            number: replace(term, leaf=next(found), weight=1.0, is_picked=False)
            for number, term in self.terms.items()
        }
        owned = [replace(term, leaf=next(found)) for term in self.owned]
        owned = [
            replace(term, weight=next(found)) if isinstance(term.weight, Tensor) else term
            for term in owned
        ]
        scores = {name: next(found) for name in names}
        return replace(self, terms=terms, owned=owned, scores=scores)


def passes_of(problem: Problem, estimate: Estimator, costs: Sequence[Tensor]) -> list[Pass]:
    """Return a problem in passes, as few as are found; each term is in one.

    Args:
        problem: the problem.
        estimate: the credit of each site.
        costs: the cost of each term, which it is made of.
    """
    own = owned(problem)
    if not problem.partly:
        terms = dict(enumerate(problem.terms))
        found = credits_of(problem, estimate, costs)
        return [Pass(Gates(0, 0), terms, [problem.terms[number] for number in own], found)]
    draws = [problem.nodes[name] for name in problem.partly]
    reached, fixed = Reached(draws), fixed_by_term(problem)
    passes: list[Pass] = []
    for number, term in enumerate(problem.terms):
        live, gates = _gated(term, fixed[number], reached)
        part = _place(passes, gates)
        part.terms[number] = live
        if number in own:
            part.owned.append(term)
    for gates, credit in _Credits(problem, estimate, costs, reached, fixed).found():
        _place(passes, gates).credits.append(credit)
    for part in passes:
        part.held, part.passed = (reached.draws(bits) for bits in part.gates)
    return passes


def _place(passes: list[Pass], gates: Gates) -> Pass:
    """Return the first of the passes that agrees with some gates, or a new one."""
    for part in passes:
        if part.gates.agrees(gates):
            part.gates = part.gates.union(gates)
            return part
    passes.append(Pass(gates))
    return passes[-1]


def _gated(term: Term, fixed: int, reached: Reached) -> tuple[Term, Gates]:
    """Return a term, and the draws that it reaches, of which some are held fixed for it.

    One that is constant where they are fixed reaches none, and loses its history.
    """
    plain = untrack(term.leaf)
    found = reached.by([plain])
    if fixed and not found & ~fixed:
        term, found = replace(term, leaf=detach(plain)), 0
    if isinstance(term.weight, Tensor):
        found |= reached.by([term.weight])
    return term, reached.gates(found, fixed)


class _Credits:
    """The credit of each site, apart for terms that need other gates where its score goes."""

    def __init__(
        self,
        problem: Problem,
        estimate: Estimator,
        costs: Sequence[Tensor],
        reached: Reached,
        fixed: Sequence[int],
    ) -> None:
        self._problem, self._estimate, self._costs = problem, estimate, costs
        self._reached, self._fixed = reached, fixed
        self._numbers = {site.name: at for at, site in enumerate(problem.structure.sites)}

    @cached_property
    def _closures(self) -> tuple[Closure, ...]:
        return downstream(self._problem.structure)

    def found(self) -> Iterator[tuple[Gates, Credit]]:
        """Yield credits, with the draws that the score of their site reaches."""
        for credit in credits_of(self._problem, self._estimate, self._costs):
            fn, at = self._problem.nodes[credit.name].fn, self._numbers[credit.name]
            ahead = self._reached.by(t for t, _ in (() if fn is None else parameters(fn)))
            everything = self._reached.gates(ahead, 0).passed
            by_gates = self._by_gates(at, ahead, everything) if everything else {}
            if len(by_gates) < 2:
                yield next(iter(by_gates), Gates(0, everything)), credit
                continue
            for gates, terms in by_gates.items():
                for part in credit_for(self._problem, self._estimate, at, terms, self._costs):
                    yield gates, part

    def _by_gates(self, site: int, ahead: int, everything: int) -> dict[Gates, list[int]]:
        """Return the terms that a site is scored for, by the gates that its score needs."""
        partly = self._problem.partly.get(self._problem.structure.sites[site].name)
        sets = self._closures[site].values() if partly is None else [partly.scored]
        found: dict[Gates, list[int]] = {}
        known: dict[int, list[int]] = {}
        for number in sorted(number for terms in sets for number in terms.numbers().tolist()):
            fixed = self._fixed[number] & everything
            if fixed not in known:
                known[fixed] = found.setdefault(self._reached.gates(ahead, fixed), [])
            known[fixed].append(number)
        return found


def scores_of(
    problem: Problem,
    passes: Sequence[Pass],
    less: Mapping[tuple[int, str], Tensor | None],
    densities: Mapping[Node, Tensor] = NO_DENSITIES,
    *,
    is_routed: bool,
) -> Scores:
    """Return the scores of a problem.

    Args:
        problem: the problem.
        passes: its passes, with the credits.
        less: the baselines, by the number of the pass that they count in and the site.
        densities: those at the draws of sites that are there already.
        is_routed: whether each pass still has to shut the gates of the draws that it holds fixed.
    """
    found: list[Score] = []
    for at, part in enumerate(passes):
        gates = (part.held, part.passed) if is_routed else ()
        for credit in part.credits:
            node = problem.nodes[credit.name]
            known = part.scores.get(node.name, densities.get(node))
            density = node.score if known is None else known
            found.append(Score(node, density, credit, less.get((at, credit.name)), *gates))
    return Scores(problem.trace, found)
