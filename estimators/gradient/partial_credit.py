"""Partial credit: that of sites whose scores count for some of the terms only.

        C↓ of some terms = C↓ of all - C↓ of the others

A site that is drawn by ``rsample`` may be scored for the terms behind a kink, and be pathwise for
the others. What counts for its score is found by the fewer of both.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator, Part
from ancestral.estimators.gradient.loss_terms import Term
from ancestral.estimators.gradient.problem import Problem
from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.tensor.control_flow import decisions_of
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.graph.structure import Entries, Structure, TermShape, Vertex


def credits_of(problem: Problem, estimate: Estimator, costs: Sequence[Tensor]) -> list[Credit]:
    """Return the credit of each site for the terms that it is scored for, given their costs."""
    if not problem.partly:
        return estimate(problem.structure, costs)
    sites, terms = list(problem.structure.sites), problem.structure.terms
    numbers = {site.name: number for number, site in enumerate(sites)}
    some: list[Credit] = []
    for name, partly in problem.partly.items():
        at, is_few = numbers[name], partly.scored.size <= partly.pathwise.size
        fewer = partly.scored if is_few else partly.pathwise
        some += credit_for(problem, estimate, at, fewer.numbers().tolist(), costs)
        if is_few:
            sites[at] = replace(sites[at], needs_score=False)
    found = {credit.name: credit for credit in estimate(Structure(tuple(sites), terms), costs)}
    for credit in some:
        whole = found.get(credit.name)
        found[credit.name] = credit if whole is None else _without(whole, credit)
    return list(found.values())


def credit_for(
    problem: Problem, estimate: Estimator, site: int, terms: Sequence[int], costs: Sequence[Tensor]
) -> list[Credit]:
    """Return the credit of the site of this number for some terms: none if it reaches none."""
    shapes = [problem.structure.terms[number] for number in terms]
    between = _between(problem.structure.sites, site, shapes)
    return estimate(between, [costs[number] for number in terms])


def fixed_by_term(problem: Problem) -> list[int]:
    """Return for each term, as bits, the sites that are scored for it, and not for some others."""
    found = [0] * len(problem.terms)
    for bit, partly in enumerate(problem.partly.values()):
        for number in partly.scored.numbers().tolist():
            found[number] |= 1 << bit
    return found


def fixed_terms(problem: Problem) -> list[Term]:
    """Return the terms for which a site is scored that others are pathwise through."""
    by_term = zip(problem.terms, fixed_by_term(problem), strict=True)
    return [term for term, bits in by_term if bits]


def _between(sites: Sequence[Vertex], scored: int, terms: Sequence[TermShape]) -> Structure:
    """Return the part of a structure between the one site with a score and some terms."""
    kept = set[int]()
    pending = [site for term in terms for _, members in term.entries for site in members]
    while pending:
        number = pending.pop()
        if number >= scored and number not in kept:
            kept.add(number)
            pending.extend(site for _, members in sites[number].incoming for site in members)
    numbers = {number: at for at, number in enumerate(sorted(kept))}
    between = (
        replace(
            sites[number],
            incoming=_renumbered(sites[number].incoming, numbers),
            needs_score=number == scored,
        )
        for number in numbers
    )
    shapes = (TermShape(term.shape, _renumbered(term.entries, numbers)) for term in terms)
    return Structure(tuple(between), tuple(shapes))


def _renumbered(entries: Entries, numbers: Mapping[int, int]) -> Entries:
    found = (
        (alignment, tuple(sorted([numbers[site] for site in members if site in numbers])))
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
    if not found:
        return set()
    universe = problem.trace.universe
    is_alone = len(universe.sources) == len(problem.sources)
    if is_alone and not decisions_of(universe).noted:
        return set(found)
    numbers = {source: number for number, source in enumerate(problem.sources)}
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
    """Return the credit of a site for all passes, given that for each."""
    first, *rest = given
    if not rest:
        return first
    is_counted = any(credit.count_once is not None for credit in given)
    return replace(
        first,
        parts=tuple(part for credit in given for part in credit.parts),
        count_once=(lambda: torch.stack([c.joint for c in given]).sum()) if is_counted else None,
    )


def with_read(problem: Problem, estimate: Estimator) -> Estimator:
    """Return an estimator that gives a site a credit of nothing if Python read it, and no cost is.

    With another value of the site, Python may have computed or declared more. A baseline that is
    subtracted for some values only would have a mean.
    """
    current = decisions_of(problem.trace.universe).current
    if current is None:
        return estimate
    read, structure = frozenset(current.universe.origins(current.members)), problem.structure
    names = set[str]()
    for number in reversed(range(len(structure.sites))):  # children come after their parents
        below = (structure.sites[child].name for child, _ in structure.children[number])
        if problem.sources[number] in read or not names.isdisjoint(below):
            names.add(structure.sites[number].name)

    def counting(structure: Structure, values: Sequence[Tensor]) -> list[Credit]:
        found = estimate(structure, values)
        known = {credit.name for credit in found}
        return found + [
            Credit(site.name, site.shape, (Part(_nothing(site.shape, values), frozenset()),))
            for site in structure.sites
            if site.needs_score and site.name in names - known and values
        ]

    return counting


def _nothing(shape: Shape, values: Sequence[Tensor]) -> Tensor:
    return detach(values[0]).new_zeros((1,) * len(shape))
