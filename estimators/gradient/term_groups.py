"""Groups of terms: each is a loss by itself, with another choice of pathwise and score.

        ∇ E[Σ_j c_j] = Σ_g ∇ E[C_g],   C_g = Σ of the c_j of which the same sites S_g are scored

The gradient is linear, so that each group may be estimated in its own way: with the values of S_g
held fixed and their scores multiplied with C_g alone, and pathwise through all other sites.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit
from ancestral.estimators.gradient.loss_terms import Term, owned
from ancestral.estimators.gradient.problem import Problem
from ancestral.trace.graph.structure import Structure
from ancestral.trace.nodes.node import Node


@dataclass(frozen=True, eq=False)
class Group:
    """Some terms of a loss, and the sites whose values are to be held fixed for them alone.

    `structure` has these terms only, and the scores that they need. `loss` is their sum, [].
    """

    terms: list[Term]
    structure: Structure
    loss: Tensor
    held: frozenset[Node]
    scored: frozenset[Node]

    @property
    def owned(self) -> list[Term]:
        """The terms that are the own log-density, at its own draw, of a site with a score."""
        return owned(self.terms, self.scored)


def groups_of(problem: Problem) -> list[Group]:
    """Return the terms of a problem in groups; each term is in one."""
    everything = problem.structure
    if not problem.partly:
        return [Group(problem.terms, everything, problem.loss, frozenset(), problem.scored)]
    scored: list[list[str]] = [[] for _ in problem.terms]
    for name, terms in problem.partly.items():
        for number in terms.numbers().tolist():
            scored[number].append(name)
    members: dict[frozenset[str], list[int]] = {}
    for number, names in enumerate(scored):
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
    loss = torch.stack([term.live.sum().to(problem.loss) for term in terms]).sum()
    held = frozenset(problem.nodes[name] for name in names)
    scored = frozenset(node for node in problem.scored if node.name not in open_)
    return Group(terms, structure, loss, held, scored)


def merged(given: Sequence[Credit]) -> Credit:
    """Return the credit of a site for all groups of terms, given that for each."""
    first, *rest = given
    if not rest:
        return first
    is_counted = any(credit.count_once is not None or credit.shared for credit in given)
    return replace(
        first,
        parts=tuple(part for credit in given for part in credit.parts),
        shared=tuple(part for credit in given for part in credit.shared),
        count_once=(lambda: torch.stack([c.joint for c in given]).sum()) if is_counted else None,
    )
