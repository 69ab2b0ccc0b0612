"""Runs at once: a site that has several values along a new dimension, to the left of all others.

A program that broadcasts then makes several runs in one. That they are the runs which would be made
in turn is not taken on trust. They are made in turn unless:

- no value of the site is read by Python, or hidden by `untrack`;
- nothing is drawn downstream of it, nor more noise outside of sites than in the first run;
- every term of the loss is one of the first run with the new dimension before its own, or one that
  the site does not reach, and weighs what that one weighs, whatever a mean along the new dimension
  made of it;
- by its alignment no term depends on two of the runs, and elements of the site that had no costs in
  common in the first run have none in these;
- the value of the first run has, among the others, the credit that it had, and another value the
  credit that it has by itself;
- in another order, with one run more, each has the same credit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, Estimator
from ancestral.estimators.gradient.loss_terms import Term
from ancestral.estimators.gradient.problem import Problem
from ancestral.estimators.rerun.replay import First, ended, is_close
from ancestral.provenance.tensor.control_flow import decisions_of
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.graph.reachability import downstream
from ancestral.trace.graph.structure import Structure
from ancestral.trace.recording.untrack import Untracked, listening

FEWEST = 6
"""How many runs are worth those that are made besides."""


@dataclass(frozen=True, eq=False)
class Stacked:
    """Several runs of a program at once, which differ in the value of one site.

    Attributes:
        first: the first run.
        name: the site.
        whole: its credit in the first run.
        estimate: which costs count.
    """

    first: First
    name: str
    whole: Credit
    estimate: Estimator

    def credits(self, values: Tensor, alone: Callable[[Tensor], Tensor]) -> Tensor | None:
        """Return the credits of the runs, [runs, *shape], None if they are to be made in turn.

        Args:
            values: what the site has in each run, [runs, *shape, *event].
            alone: returns the credit [*shape] of a run by itself.
        """
        value = untrack(self.first.nodes[self.name].value).detach()[None]
        found = self._at_once(torch.cat([values, value]))
        again = None if found is None else self._at_once(torch.cat([value, value, values.flip(0)]))
        if found is None or again is None:
            return None
        known = untrack(self.whole.total).detach().expand(self.whole.shape)
        odd = next((n for n, row in enumerate(values) if not torch.equal(row, value[0])), 0)
        is_same = (
            is_close(found[:-1], again[2:].flip(0))
            and is_close(found[-1], known)
            and is_close(found[odd], alone(values[odd]))
        )
        return found[:-1] if is_same else None

    def _at_once(self, rows: Tensor) -> Tensor | None:
        hidden: list[Untracked] = []
        try:
            with listening(hidden.append):
                again = self.first.again(self.name, rows, is_stacked=True)
        except Exception:  # what is wrong with the program itself is raised by a run by itself
            return None
        with ended(again):
            is_read = bool(decisions_of(again.trace.universe).noted) or bool(hidden)
            if is_read or not self.first.chance.is_aligned:
                return None
            costs = _costs(self.first.problem, again.problem, self.name, len(rows))
            credit = None if costs is None else self._credit(again.problem, costs)
            if credit is None or not _are_apart(credit, self.whole):
                return None
            return untrack(credit.total).detach().expand(credit.shape)

    def _credit(self, problem: Problem, costs: list[Tensor]) -> Credit | None:
        sites = problem.structure.sites
        only = tuple(replace(site, needs_score=site.name == self.name) for site in sites)
        found = self.estimate(Structure(only, problem.structure.terms), costs)
        return next((credit for credit in found if credit.name == self.name), None)


def _costs(first: Problem, again: Problem, name: str, runs: int) -> list[Tensor] | None:
    """Return the cost of each term for each run, weighing what it does in the first one."""
    if len(first.terms) != len(again.terms):
        return None
    reached = _reached(again, name)
    found: list[Tensor] = []
    for number, (ours, theirs) in enumerate(zip(first.terms, again.terms, strict=True)):
        shape = ours.value.shape
        if number not in reached:
            if theirs.value.shape != shape:
                return None
            found.append(theirs.value)
            continue
        leaf = untrack(theirs.leaf).detach()
        if leaf.shape != (runs, *shape) or ours.is_picked or theirs.is_picked:
            return None
        found.append(leaf * _weight(ours))
    return found


def _weight(term: Term) -> Tensor | float:
    return term.weight.detach() if isinstance(term.weight, Tensor) else term.weight


def _reached(problem: Problem, name: str) -> set[int]:
    """Return the numbers of the terms that a site reaches."""
    number = next((n for n, v in enumerate(problem.structure.sites) if v.name == name), None)
    if number is None:
        return set()
    closure = downstream(problem.structure)[number]
    return {int(term) for terms in closure.values() for term in terms.numbers()}


def _are_apart(credit: Credit, whole: Credit) -> bool:
    """Return whether runs are apart, and elements that were apart in the first run."""
    if len(credit.shape) != len(whole.shape) + 1:
        return False
    kept = frozenset(
        dim
        for dim, size in enumerate(whole.shape)
        if size < 2 or all(dim in part.apart for part in whole.parts)
    )
    needed = {0, *(dim + 1 for dim in kept if whole.shape[dim] > 1)}
    return all(needed <= part.apart for part in credit.parts)
