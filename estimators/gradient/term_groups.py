"""Groups of terms: each is a loss by itself, with another choice of pathwise and score.

        ∇ E[Σ_j c_j] = Σ_g ∇ E[C_g],   C_g = Σ of the c_j of which the same sites S_g are scored

The gradient is linear, so that each group may be estimated in its own way: with the values of S_g
held fixed and their scores multiplied with C_g alone, and pathwise through all other sites.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit
from ancestral.estimators.gradient.loss_terms import Term, owned
from ancestral.estimators.gradient.problem import Problem
from ancestral.estimators.pathwise.routes import is_constant
from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.graph.structure import Structure
from ancestral.trace.nodes.node import Node


@dataclass(frozen=True, eq=False)
class Group:
    """Some terms of a loss, and the sites whose values are to be held fixed for them alone.

    `structure` has these terms only, and the scores that they need. `loss` is their sum, [].
    `scored` are all sites with a score, `owned` the terms whose own gradient has mean zero.
    """

    terms: list[Term]
    structure: Structure
    loss: Tensor
    held: frozenset[Node]
    scored: frozenset[Node]
    owned: list[Term]


def groups_of(problem: Problem) -> list[Group]:
    """Return the terms of a problem in groups; each term is in one."""
    everything = problem.structure
    if not problem.partly:
        own = _owned(problem, problem.terms, problem.scored)
        whole = Group(problem.terms, everything, problem.loss, frozenset(), problem.scored, own)
        return [whole]
    behind: list[list[str]] = [[] for _ in problem.terms]
    for name, terms in problem.partly.items():
        for number in terms.numbers().tolist():
            behind[number].append(name)
    members: dict[frozenset[str], list[int]] = {}
    for number, names in enumerate(behind):
        members.setdefault(frozenset(names), []).append(number)
    return [_group(problem, numbers, names) for names, numbers in members.items()]


def _group(problem: Problem, numbers: list[int], names: frozenset[str]) -> Group:
    terms = [problem.terms[number] for number in numbers]
    open_ = problem.partly.keys() - names
    sites = tuple(
        replace(site, needs_score=False) if site.name in open_ else site
        for site in problem.structure.sites
    )
    structure = Structure(sites, tuple(problem.structure.terms[number] for number in numbers))
    held = frozenset(problem.nodes[name] for name in names)
    scored = frozenset(node for node in problem.scored if node.name not in open_)
    own = _owned(problem, terms, scored)
    terms = [_cut(term, held) for term in terms]
    loss = torch.stack([term.live.sum().to(problem.loss) for term in terms]).sum()
    return Group(terms, structure, loss, held, scored, own)


def _cut(term: Term, held: frozenset[Node]) -> Term:
    """Return a term without the history of its cost, if that leads through held values alone."""
    plain = untrack(term.leaf)
    return replace(term, leaf=plain.detach()) if held and is_constant(plain, held) else term


def _owned(problem: Problem, terms: list[Term], scored: frozenset[Node]) -> list[Term]:
    """Return the terms that are the own log-density, at its own draw, of a site with a score.

        E[∇ log q(z)] = 0,   but not E[1{z > 0} ∇ log q(z)]

    Not those that Python may have chosen by the draw.
    """
    found = owned(terms, scored)
    numbers = {source: number for number, source in enumerate(problem.sources)} if found else {}
    newest = [_newest_decision(term, numbers) for term in found]
    if not any(number >= 0 for number in newest):
        return found
    first = _first_decisions(problem)
    return [
        term
        for term, number in zip(found, newest, strict=True)
        if number < first[term.leaf._scored.source]  # type: ignore[attr-defined]
    ]


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
