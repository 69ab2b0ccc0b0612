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
    own = _owned(problem)
    if not problem.partly:
        found = [problem.terms[number] for number in own]
        return [Group(problem.terms, problem.structure, problem.loss, frozenset(), found)]
    routes, terms = _Routes(problem), list(problem.terms)
    members: dict[frozenset[Node], list[int]] = {}
    for number, fixed in enumerate(_fixed(problem)):
        terms[number], held = routes.of(terms[number], fixed)
        members.setdefault(held, []).append(number)
    places = {source.name: number for number, source in enumerate(problem.sources)}
    return [_group(problem, terms, numbers, held, own, places) for held, numbers in members.items()]


def fixed_terms(problem: Problem) -> list[Term]:
    """Return the terms for which a site is scored that others are pathwise through."""
    return [term for term, bits in zip(problem.terms, _fixed(problem), strict=True) if bits]


def _fixed(problem: Problem) -> list[int]:
    """Return for each term, as bits, the sites that are scored for it and not for others."""
    fixed = [0] * len(problem.terms)
    for bit, (scored, _) in enumerate(problem.partly.values()):
        for number in scored.numbers().tolist():
            fixed[number] |= 1 << bit
    return fixed


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
        return term, self._reached.held(found, fixed)

    def _of_score(self, node: Node) -> int:
        return self._reached.by(t for t, _ in (() if node.fn is None else parameters(node.fn)))


def _group(
    problem: Problem,
    terms: list[Term],
    numbers: list[int],
    held: frozenset[Node],
    own: set[int],
    places: Mapping[str, int],
) -> Group:
    """Return the group of the terms of these numbers."""
    local = {number: at for at, number in enumerate(numbers)}
    shapes = tuple(problem.structure.terms[number] for number in numbers)
    unscored: set[int] = set()
    limits: list[Limit] = []
    for name, partly in problem.partly.items():
        scored, pathwise = (
            tuple(local[n] for n in part.numbers().tolist() if n in local) for part in partly
        )
        is_all_but = len(pathwise) < len(scored)
        if scored and pathwise:
            some = pathwise if is_all_but else scored
            limits.append(_limit(problem.structure.sites, places[name], shapes, some))
        if not is_all_but:
            unscored.add(places[name])
    sites = tuple(
        replace(site, needs_score=False) if at in unscored else site
        for at, site in enumerate(problem.structure.sites)
    )
    return Group(
        [terms[number] for number in numbers],
        Structure(sites, shapes),
        torch.stack([terms[number].live.sum().to(problem.loss) for number in numbers]).sum(),
        held,
        [problem.terms[number] for number in numbers if number in own],
        tuple(limits),
    )


def _limit(
    sites: Sequence[Vertex], first: int, shapes: Sequence[TermShape], some: tuple[int, ...]
) -> Limit:
    """Return a limit to some terms, with the part of the structure between the site and them."""
    kept = {first}
    pending = [site for n in some for _, members in shapes[n].entries for site in members]
    while pending:
        number = pending.pop()
        if number > first and number not in kept:
            kept.add(number)
            pending.extend(site for _, members in sites[number].incoming for site in members)
    numbers = {number: at for at, number in enumerate(sorted(kept))}
    between = [
        replace(
            sites[number],
            incoming=_renumbered(sites[number].incoming, numbers),
            needs_score=number == first,
        )
        for number in numbers
    ]
    terms = [TermShape(shapes[n].shape, _renumbered(shapes[n].entries, numbers)) for n in some]
    return Limit(some, Structure(tuple(between), tuple(terms)))


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


def _owned(problem: Problem) -> set[int]:
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
