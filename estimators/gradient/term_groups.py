"""Groups of terms: each is a loss by itself, with another choice of pathwise and score.

        ∇ E[Σ_j c_j] = Σ_g ∇ E[C_g],   C_g = Σ of the c_j for which the same draws are held fixed

The gradient is linear, so that each group may be estimated in its own way: with some values held
fixed, whose scores take their place, and pathwise through all others. Within a group, the score of
a site may count for some of the terms only: those for which it matters whether its value is fixed
are in other groups than those for which it is not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator
from ancestral.estimators.gradient.loss_terms import Term
from ancestral.estimators.gradient.problem import Problem
from ancestral.estimators.pathwise.routes import Reached, numbers_of
from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.graph.structure import Entries, Structure, TermShape, Vertex
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.nodes.node import Node


@dataclass(frozen=True)
class Limit:
    """The terms of a group that a site is given credit for; if they are fewer, all but which.

    `structure` has that site and these terms only, and what lies between.
    """

    terms: tuple[int, ...]
    structure: Structure


@dataclass(frozen=True, eq=False)
class Group:
    """Some terms of a loss, and the draws whose values are to be held fixed for them.

    `structure` has these terms only; `limits` are of the sites that are scored for some of them.
    `loss` is their sum, []. Of `owned`, their own gradient has mean zero.
    """

    terms: list[Term]
    structure: Structure
    loss: Tensor
    held: frozenset[Node]
    owned: list[Term]
    limits: tuple[Limit, ...] = ()

    def credits(self, estimate: Estimator, costs: Sequence[Tensor]) -> list[Credit]:
        """Return the credit of each site, given the cost of each term."""
        found = {credit.name: credit for credit in estimate(self.structure, costs)}
        for limit in self.limits:
            for credit in estimate(limit.structure, [costs[number] for number in limit.terms]):
                whole = found.get(credit.name)
                found[credit.name] = credit if whole is None else _without(whole, credit)
        return list(found.values())


def groups_of(problem: Problem) -> list[Group]:
    """Return the terms of a problem in groups; each term is in one."""
    own = owned(problem)
    if not problem.partly:
        found = [problem.terms[number] for number in own]
        return [Group(problem.terms, problem.structure, problem.loss, frozenset(), found)]
    routes, terms = _Routes(problem), list(problem.terms)
    fixed = fixed_by_term(problem)
    members: dict[frozenset[Node], list[int]] = {}
    for number, bits in enumerate(fixed):
        terms[number], held = routes.of(terms[number], bits)
        members.setdefault(held, []).append(number)
    grouped = _Grouped(problem, terms, own, fixed)
    return [grouped.by(numbers, held) for held, numbers in members.items()]


def whole_of(problem: Problem) -> Group:
    """Return all terms as one group, by which each site gets credit for what it is scored for."""
    grouped = _Grouped(problem, problem.terms, set(), fixed_by_term(problem))
    return grouped.by([*range(len(problem.terms))], frozenset())


def credit_for(
    problem: Problem, estimate: Estimator, site: int, terms: Sequence[int], costs: Sequence[Tensor]
) -> list[Credit]:
    """Return the credit of the site of this number for some terms: none if it reaches none."""
    shapes = [problem.structure.terms[number] for number in terms]
    between = _between(problem.structure.sites, [site], shapes)
    return estimate(between, [costs[number] for number in terms])


def fixed_by_term(problem: Problem) -> list[int]:
    """Return for each term, as bits, the sites that are scored for it, and not for some others."""
    return _by_term(problem, is_scored=True)


def fixed_terms(problem: Problem) -> list[Term]:
    """Return the terms for which a site is scored that others are pathwise through."""
    by_term = zip(problem.terms, fixed_by_term(problem), strict=True)
    return [term for term, bits in by_term if bits]


def _by_term(problem: Problem, *, is_scored: bool) -> list[int]:
    """Return for each term, as bits, the sites that are scored for it, and not for some others.

    Or those that it is pathwise through, and some others are not.
    """
    found = [0] * len(problem.terms)
    for bit, partly in enumerate(problem.partly.values()):
        for number in (partly.scored if is_scored else partly.pathwise).numbers().tolist():
            found[number] |= 1 << bit
    return found


class _Routes:
    """The draws that terms are to hold fixed, and that autograd reaches from them."""

    def __init__(self, problem: Problem) -> None:
        self._reached = Reached([problem.nodes[name] for name in problem.partly])
        self._by_score = [self._of_score(problem.nodes[name]) for name in problem.partly]
        self._by_others = 0
        for node in problem.scored:
            if node.name not in problem.partly:
                self._by_others |= self._of_score(node)

    def of(self, term: Term, fixed: int) -> tuple[Term, frozenset[Node]]:
        """Return a term, and what it reaches of the draws that it is to hold fixed.

        One that is constant where they are fixed reaches none, and loses its history.
        """
        if not fixed:
            return term, frozenset()
        plain = untrack(term.leaf)
        found = self._reached.by([plain])
        if not found & ~fixed:
            term, found = replace(term, leaf=plain.detach()), 0
        found |= self._by_others
        if isinstance(term.weight, Tensor):
            found |= self._reached.by([term.weight])
        if any(self._by_score):
            for number in numbers_of(fixed):
                found |= self._by_score[number]
        return term, self._reached.draws(self._reached.gates(found, fixed).held)

    def _of_score(self, node: Node) -> int:
        return self._reached.by(t for t, _ in (() if node.fn is None else parameters(node.fn)))


class _Grouped:
    """A problem whose terms are put in groups; `own` are those whose own gradient has mean zero."""

    def __init__(
        self, problem: Problem, terms: list[Term], own: set[int], fixed: list[int]
    ) -> None:
        self._problem, self._terms, self._own, self._fixed = problem, terms, own, fixed
        self._passed = _by_term(problem, is_scored=False)
        places = {source.name: number for number, source in enumerate(problem.sources)}
        self._places = [places[name] for name in problem.partly]
        sites = problem.structure.sites
        self._scored = [number for number, site in enumerate(sites) if site.needs_score]

    def by(self, numbers: list[int], held: frozenset[Node]) -> Group:
        """Return the group of the terms of these numbers."""
        everything = self._problem.structure
        shapes = [everything.terms[number] for number in numbers]
        fixed, passed = (
            reduce(or_, (bits[number] for number in numbers))
            for bits in (self._fixed, self._passed)
        )
        unscored = {self._places[bit] for bit in numbers_of(passed & ~fixed)}
        limits: list[Limit] = []
        for bit in numbers_of(passed & fixed):
            scored, pathwise = (
                tuple(at for at, number in enumerate(numbers) if bits[number] >> bit & 1)
                for bits in (self._fixed, self._passed)
            )
            if len(pathwise) >= len(scored):
                unscored.add(self._places[bit])
                some = scored
            else:
                some = pathwise
            few = [shapes[at] for at in some]
            limits.append(Limit(some, _between(everything.sites, [self._places[bit]], few)))
        needing = [number for number in self._scored if number not in unscored]
        lives = [self._terms[number].live.sum().to(self._problem.loss) for number in numbers]
        return Group(
            [self._terms[number] for number in numbers],
            _between(everything.sites, needing, shapes),
            torch.stack(lives).sum(),
            held,
            [self._problem.terms[number] for number in numbers if number in self._own],
            tuple(limits),
        )


def _between(
    sites: Sequence[Vertex], scored: Sequence[int], terms: Sequence[TermShape]
) -> Structure:
    """Return the part of a structure between the first of the sites with a score and some terms."""
    first, needing = min(scored, default=len(sites)), frozenset(scored)
    kept = set[int]()
    pending = [site for term in terms for _, members in term.entries for site in members]
    while pending:
        number = pending.pop()
        if number >= first and number not in kept:
            kept.add(number)
            pending.extend(site for _, members in sites[number].incoming for site in members)
    numbers = {number: at for at, number in enumerate(sorted(kept))}
    between = (
        Vertex(v.name, v.shape, _renumbered(v.incoming, numbers), needs_score=number in needing)
        for number in numbers
        for v in (sites[number],)
    )
    shapes = (TermShape(term.shape, _renumbered(term.entries, numbers)) for term in terms)
    return Structure(tuple(between), tuple(shapes))


def _renumbered(entries: Entries, numbers: Mapping[int, int]) -> Entries:
    found = (
        (alignment, frozenset(numbers[site] for site in members if site in numbers))
        for alignment, members in entries
    )
    return tuple((alignment, members) for alignment, members in found if members)


def _without(whole: Credit, some: Credit) -> Credit:
    """Return a credit without that for some terms."""
    less = tuple(replace(part, value=-part.value) for part in some.parts)
    return replace(whole, parts=(*whole.parts, *less), count_once=lambda: whole.joint - some.joint)


def owned(problem: Problem) -> set[int]:
    """Return the terms that are the own log-density, at its own draw, of a site with a score.

        E[∇ log q(z)] = 0,   but not E[1{z > 0} ∇ log q(z)]

    Not those that Python may have chosen by the draw, nor those that are pathwise through it.
    """
    found: dict[int, Source] = {}
    scored = problem.scored
    for number, term in enumerate(problem.terms):
        node = getattr(term.leaf, "_scored", None)
        partly = None if node is None else problem.partly.get(node.name)
        if node in scored and (partly is None or number in partly.scored.numbers()):
            found[number] = node.source
    numbers = {source: number for number, source in enumerate(problem.sources)} if found else {}
    newest = {at: _newest_decision(problem.terms[at], numbers) for at in found}
    if not any(number >= 0 for number in newest.values()):
        return set(found)
    first = _first_decisions(problem)
    return {at for at, source in found.items() if newest[at] < first[source]}


def _newest_decision(term: Term, numbers: Mapping[Source, int]) -> float:
    """Return the number of the last decision that a term depends on: -1 for none.

    A decision stands for all those before, but where the user ended them.
    """
    newest = -1.0
    pending = [] if term.provenance is None else list(term.provenance.members)
    seen: set[Source] = set()
    while pending:
        source = pending.pop()
        if source in seen:
            continue
        seen.add(source)
        if source.is_decision:
            newest = max(newest, numbers.get(source, math.inf))  # of another recording: unknown
        elif source.stands_for is not None:
            pending.extend(source.stands_for.members)
    return newest


def _first_decisions(problem: Problem) -> dict[Source, float]:
    """Return the number of the first decision that rests on each source, directly or not."""
    structure, sources = problem.structure, problem.sources
    first = [math.inf] * len(sources)
    for number in reversed(range(len(sources))):
        after = [first[child] for child, _ in structure.children[number]]
        first[number] = min([*after, number if sources[number].is_decision else math.inf])
    return dict(zip(sources, first, strict=True))


def merged(given: Sequence[Credit]) -> Credit:
    """Return the credit of a site for all groups of terms, given that for each."""
    first, *rest = given
    if not rest:
        return first
    is_counted = any(credit.count_once is not None for credit in given)
    return replace(
        first,
        parts=tuple(part for credit in given for part in credit.parts),
        count_once=(lambda: torch.stack([c.joint for c in given]).sum()) if is_counted else None,
    )
