"""Passes: what one pass of autograd differentiates of a loss and of its scores.

A term, and a score with its credit, are scalars of their own: each needs the gates of the draws
that it reaches to be shut or open, and does not mind the others. Those that agree share a pass. On
a chain each term holds all draws before its own fixed, but it reaches the last of them only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator
from ancestral.estimators.gradient.loss_terms import Term
from ancestral.estimators.gradient.problem import Problem
from ancestral.estimators.gradient.term_groups import (
    credit_for,
    fixed_by_term,
    groups_of,
    owned,
    whole_of,
)
from ancestral.estimators.pathwise.routes import Gates, Reached
from ancestral.trace.graph.reachability import downstream
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.nodes.node import Node


@dataclass(eq=False)
class Pass:
    """Terms and credits that agree about the gates of the draws that they reach.

    The losses are [], with their history; of `owned`, the own gradient has mean zero.
    """

    gates: Gates = Gates(0, 0)
    held: frozenset[Node] = frozenset()
    passed: frozenset[Node] = frozenset()
    losses: list[Tensor] = field(default_factory=list[Tensor])
    owned: list[Term] = field(default_factory=list[Term])
    credits: list[Credit] = field(default_factory=list[Credit])


def passes_of(problem: Problem, estimate: Estimator) -> list[Pass]:
    """Return a problem in as few passes as are found; each term and each credit is in one."""
    costs = [term.value for term in problem.terms]
    if not problem.partly:
        (group,) = groups_of(problem)
        found = group.credits(estimate, costs)
        return [Pass(losses=[group.loss], owned=group.owned, credits=found)]
    reached = Reached([problem.nodes[name] for name in problem.partly])
    fixed, passes = fixed_by_term(problem), list[Pass]()
    own = owned(problem)
    for number, term in enumerate(problem.terms):
        live = term.live.sum().to(problem.loss)
        part = _place(passes, reached.gates(reached.by([live]), fixed[number]))
        part.losses.append(live)
        if number in own:
            part.owned.append(term)
    for gates, credit in _credits(problem, estimate, reached, fixed, costs):
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


def _credits(
    problem: Problem,
    estimate: Estimator,
    reached: Reached,
    fixed: list[int],
    costs: list[Tensor],
) -> Iterator[tuple[Gates, Credit]]:
    """Yield the credit of each site, apart for terms that need other gates where its score goes."""
    whole = whole_of(problem).credits(estimate, costs)
    numbers = {site.name: at for at, site in enumerate(problem.structure.sites)}
    closures = downstream(problem.structure)
    for credit in whole:
        node, at = problem.nodes[credit.name], numbers[credit.name]
        ahead = reached.by(t for t, _ in (() if node.fn is None else parameters(node.fn)))
        everything = reached.gates(ahead, 0).passed
        partly = problem.partly.get(credit.name)
        sets = closures[at].values() if partly is None else [partly.scored]
        terms = _numbers(each.numbers().tolist() for each in sets) if everything else []
        by_gates: dict[Gates, list[int]] = {}
        known: dict[int, Gates] = {}
        for number in terms:
            some = fixed[number] & everything
            if some not in known:
                known[some] = reached.gates(ahead, some)
            by_gates.setdefault(known[some], []).append(number)
        if len(by_gates) < 2:
            yield next(iter(by_gates), Gates(0, everything)), credit
        else:
            for gates, some_terms in by_gates.items():
                for part in credit_for(problem, estimate, at, some_terms, costs):
                    yield gates, part


def _numbers(sets: Iterable[list[int]]) -> list[int]:
    return sorted(number for numbers in sets for number in numbers)


def total_of(parts: Iterable[Tensor]) -> Tensor | None:
    """Return the sum of what has a gradient, [], None where nothing has."""
    found = [part for part in parts if part.requires_grad]
    return torch.stack([part.to(found[0].dtype) for part in found]).sum() if found else None
