"""Explanation: the dimensions along which credit stayed apart, and the ops that mixed the others.

A dimension of a site stays separate in a cost if every element of the cost depends, of this site,
on elements of one index only. Where it does not, some op mixed it: the ops on the way are found by
walking back from the cost, through the sites between, to the steps that lost the dimension.
"""

import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import PurePath

import torch
from torch import Tensor

from ancestral.estimators.credit.blur import (
    CHOOSING,
    WAYS_OUT,
    WAYS_OUT_OF_CHOICE,
    Blur,
    squared,
)
from ancestral.estimators.credit.credit import by_element
from ancestral.estimators.gradient.loss_pytree import LossError
from ancestral.estimators.gradient.problem import Problem, examined, examined_costs
from ancestral.provenance.algebra.alignment import LOST, Alignment
from ancestral.provenance.algebra.alignment_loss import Mix, kept, mixes_of, separate
from ancestral.provenance.algebra.provenance import Provenance, Source
from ancestral.provenance.tensor.tensor import site_of
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.errors import guessed, listed
from ancestral.trace.display.text_table import Table, Tabular
from ancestral.trace.graph.reachability import Closure, TermSet, downstream, no_terms, term_set
from ancestral.trace.graph.structure import Structure, TermShape
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.trace import Trace, install_explain


@dataclass(frozen=True, eq=False)
class Account:
    """What is left of a gradient once it was taken: who depends on whom, and what it cost.

    `scored` has the terms for which each site gets its score: none where it is pathwise. Of each
    term, its provenance, its value without history, and what made it.
    """

    nodes: Mapping[str, Node]
    structure: Structure
    sources: tuple[Source, ...]  # of the sites of the structure
    scored: Mapping[str, TermSet]
    provenances: tuple[Provenance | None, ...]
    values: tuple[Tensor, ...]
    made: tuple[str, ...]


def account_of(problem: Problem, undecided: Container[str] = ()) -> Account:
    """Return what an explanation needs of a problem; the score of some sites is not decided yet."""
    everything = TermSet(0, 0, 0, len(problem.structure.terms))
    return Account(
        problem.nodes,
        problem.structure,
        problem.sources,
        {
            site.name: problem.partly[site.name].scored
            if site.name in problem.partly
            else everything
            for site in problem.structure.sites
            if site.needs_score or site.name in undecided
        },
        tuple(map(attrgetter("provenance"), problem.terms)),
        tuple([detach(t.value) if t.value.requires_grad else t.value for t in problem.terms]),
        problem.made,
    )


@dataclass(frozen=True)
class Line:
    """One dimension of one site, and in how many of the costs downstream it stayed separate.

    A site of one element has no dimension that could be mixed: `dim` is None, and separate are the
    costs that it reaches by no decision of Python.

    `mixes` are the ops that mixed it in the others. `excess` is how many times the squared credit
    of an element was larger, at this draw, than if the dimension had stayed separate; None where no
    dimension of those costs has its size.
    """

    site: str
    dim: int | None
    size: int
    separate: int
    costs: int
    mixes: tuple[Mix, ...] = ()
    excess: float | None = None

    @property
    def is_separate(self) -> bool:
        """Whether the dimension stayed separate in every cost."""
        return self.separate == self.costs


MOST_LINES = 40
_HEADER = ("site", "dim", "size", "separate in", "mixed by", "where", "credit²")


@dataclass(frozen=True)
class Explanation(Tabular):
    """What stayed separate and what was mixed, the most expensive first; its text is a table."""

    lines: tuple[Line, ...]

    def table(self) -> Table:
        """Return one screen of rows, and what to do below them."""
        rows = [row for line in self.lines for row in _rows(line)]
        left = len(rows) - MOST_LINES
        more = [f"... and {left:,} more"] if left > 0 else []
        return Table(_HEADER, rows[:MOST_LINES], right={1, 2}, below=[*more, *self.advice])

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do about each line whose read made a decision that mixed something."""
        mixes = dict.fromkeys(mix for line in self.lines for mix in line.mixes)
        chosen = {mix.place for mix in mixes if mix.op in CHOOSING}
        return tuple(
            f"{mix.op} at {_short(mix.place)}: "
            + (WAYS_OUT_OF_CHOICE if mix.place in chosen else WAYS_OUT.format(package="package"))
            for mix in mixes
            if mix.op == "the decision"
        )

    __repr__ = Tabular.__str__


def _rows(line: Line) -> Iterator[tuple[str, ...]]:
    costs = f"{line.separate} of {line.costs} costs" if line.costs > 1 else "the cost"
    dim = "" if line.dim is None else str(line.dim)
    head = (line.site, dim, str(line.size), costs if line.separate else "no cost")
    excess = "" if line.excess is None else f"x {line.excess:,.3g}"
    first, *rest = line.mixes or (Mix("", ""),)
    yield (*head, first.op, _short(first.place), excess)
    for mix in rest[:2]:
        yield ("", "", "", "", mix.op, _short(mix.place), "")


def _short(place: str) -> str:
    path, colon, number = place.rpartition(":")
    return f"{PurePath(path).name}{colon}{number}"


def explain(site: str | Tensor | Node, cost: Tensor | Node) -> Explanation:
    """Explain which dimensions of a site's credit for a cost stay apart, and what mixed the others.

    Nothing changes: a gradient can still be taken.

    Args:
        site: the name of the site, its node, or what it drew.
        cost: the loss, any tensor computed from the draw, or the node of a declared cost; its
            elements are summed.

    Raises:
        LossError: if the cost is no tensor, depends on no draw of a recording, or not on this site.
        SettledError: if the recording's gradient was already taken; its trace still explains it.
    """
    if isinstance(cost, Node) and cost.type == "cost":
        cost = cost.value
    if not isinstance(cost, Tensor):
        raise LossError.of_kind("the cost to explain", cost)
    account = _before(examined(cost, None if cost.ndim == 0 else torch.ones_like(cost)))
    node = site if isinstance(site, Node) else site_of(site)
    name = site if isinstance(site, str) else "" if node is None else node.name
    if name not in account.nodes or account.nodes[name] is not (node or account.nodes[name]):
        given = f"{name!r}" if name else f"{kind_of(site)} that no draw gave"
        raise LossError(
            f"{given} is no site of the recording of the cost; its sites are "
            f"{listed(account.nodes)}{guessed([name], account.nodes)}"
        )
    lines = tuple(line for line in _Explaining(account).lines() if line.site == name)
    if not lines and account.nodes[name].shape:
        raise LossError(
            f"the cost does not depend on site {name!r} ({account.nodes[name].location})"
        )
    return Explanation(lines)


def _before(problem: Problem) -> Account:
    """Return the account of a problem before a gradient is taken: sites behind kinks are scored."""
    return account_of(problem, problem.kinks)


def explain_trace(trace: Trace, loss: Tensor | None) -> Explanation:
    """Explain all sites of a trace; see `Trace.explain`."""
    if loss is not None:
        return Explanation(_Explaining(_before(examined(loss, None))).lines())
    if isinstance(trace.account, Account):
        return Explanation(_Explaining(trace.account).lines())
    return Explanation(_Explaining(_before(examined_costs(trace))).lines())


install_explain(explain_trace)


class _Explaining:
    """The walk from the terms of a loss back to what mixed the dimensions of each site."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._structure = account.structure
        self._closures = downstream(account.structure)
        self._end = len(account.structure.terms)
        self._reached = [_all(closure, self._end) for closure in self._closures]
        self._blur = Blur(account.structure, account.sources, account.nodes)
        # Without the terms that a site is pathwise for, if it is scored for others.
        self._credited = [
            _common(closure, account.scored.get(source.name))
            for source, closure in zip(account.sources, self._closures, strict=True)
        ]

    def lines(self) -> tuple[Line, ...]:
        """Return a line for each dimension of each site, the most expensive first."""
        found = [
            line
            for number, source in enumerate(self._account.sources)
            if source.name in self._account.nodes and self._credited[number]
            for line in self._of_site(number)
        ]
        found.sort(key=lambda line: (line.is_separate, -(line.excess or 0), -line.size))
        return tuple(found)

    def _of_site(self, number: int) -> Iterator[Line]:
        site = self._structure.sites[number]
        total = _all(self._credited[number], self._end).size
        if all(size == 1 for size in site.shape):
            yield self._of_one(number)
        for dim, size in enumerate(site.shape):
            if size == 1:
                continue
            lost = no_terms(self._end)
            for claims, terms in self._credited[number].items():
                if dim not in separate(claims):
                    lost = lost.union(terms)
            if not lost:
                yield Line(site.name, dim, size, total, total)
                continue
            mixes = tuple(dict.fromkeys(self._mixes(number, dim, lost)))
            excess = self._excess(number, dim)
            yield Line(site.name, dim, size, total - lost.size, total, mixes, excess)

    def _of_one(self, number: int) -> Line:
        """Return the line of a site of one element."""
        name, reached = self._structure.sites[number].name, _all(self._credited[number], self._end)
        tied = self._blur.changed[number].common(reached)
        if not tied:
            return Line(name, None, 1, reached.size, reached.size)
        mixes = [
            _drawing(other, None)
            for at, other in enumerate(self._account.sources)
            if other.is_decision and self._reached[at].common(tied)
            if number in self._blur.upstream([other])
        ]
        excess = self._square(reached) / (self._square(reached.without(tied)) or math.nan)
        left = None if math.isnan(excess) or name not in self._account.scored else excess
        return Line(name, None, 1, reached.size - tied.size, reached.size, tuple(mixes), left)

    def _square(self, terms: TermSet) -> float:
        values = [self._account.values[term].double() for term in terms.numbers().tolist()]
        return sum(float(value.sum()) for value in values) ** 2

    def _mixes(self, number: int, dim: int, lost: TermSet) -> Iterator[Mix]:
        """Yield the ops that mixed a dimension on the way to the terms in which it is lost."""
        pending, seen = [(number, dim)], {(number, dim)}
        while pending:
            at, d = pending.pop(0)
            for found, consumer, mix in self._consumers(at, lost):
                source = self._account.sources[at]
                dims = kept(found).get(source, frozenset())
                if d not in dims:
                    mixes = mixes_of(found, source, d)
                    is_decided = consumer is not None and self._is_decision(consumer)
                    yield from (mix, *mixes) if is_decided else mixes or (mix,)
                elif consumer is not None:
                    for i in _indexing(found, source, d):
                        if (consumer, i) not in seen:
                            seen.add((consumer, i))
                            pending.append((consumer, i))

    def _is_decision(self, number: int) -> bool:
        return self._account.sources[number].is_decision

    def _consumers(self, at: int, lost: TermSet) -> Iterator[tuple[Provenance, int | None, Mix]]:
        """Yield what depends directly on a site, on the way to some terms."""
        for child in dict.fromkeys(child for child, _ in self._structure.children[at]):
            if self._reached[child].common(lost):
                source = self._account.sources[child]
                node = self._account.nodes.get(source.name)
                found = source.stands_for if node is None else node.param_provenance
                if found is not None:
                    yield found, child, _drawing(source, node)
        for term in self._terms_of[at].common(lost).numbers().tolist():
            found = self._account.provenances[term]
            if found is not None:
                yield found, None, Mix(self._account.made[term] or "a cost", "")

    @cached_property
    def _terms_of(self) -> list[TermSet]:
        """The terms that depend on each site directly."""
        numbers: list[list[int]] = [[] for _ in self._structure.sites]
        for term, shape in enumerate(self._structure.terms):
            for site in frozenset[int]().union(*(sites for _, sites in shape.entries)):
                numbers[site].append(term)
        return [term_set(found, self._end) if found else no_terms(self._end) for found in numbers]

    def _excess(self, number: int, dim: int) -> float | None:
        """Return how much larger the squared credit is than with the dimension kept apart.

            Σ_s C[s]² / Σ_s C'[s]²

        where C' counts for each element the costs at its own index, wherever it counts those at
        all; None where the site has no score, or a cost no dimension of its size.
        """
        site = self._structure.sites[number]
        if site.name not in self._account.scored:
            return None
        given, apart = list[TermShape](), list[TermShape]()
        values: list[Tensor] = []
        for claims, terms in self._credited[number].items():
            is_apart = dim in separate(claims)
            for term in terms.numbers().tolist():
                values.append(self._account.values[term].double())
                shape = tuple(values[-1].shape)
                at = [i for i, size in enumerate(shape) if size == site.shape[dim]]
                if not at and not is_apart:
                    return None
                kept = claims if is_apart else {_kept_apart(claim, at, dim) for claim in claims}
                given.append(TermShape(shape, tuple((c, (0,)) for c in claims)))
                apart.append(TermShape(shape, tuple((c, (0,)) for c in kept)))
        vertex = (replace(site, incoming=(), needs_score=True),)
        squares = [squared(by_element(Structure(vertex, tuple(t)), values)) for t in (given, apart)]
        return squares[0] / squares[1] if squares[1] else None


def _kept_apart(claim: Alignment, at: Sequence[int], dim: int) -> Alignment:
    """Return a claim by which one of some dimensions of a cost indexes a dimension of the site."""
    free = next((i for i in at if claim.dims[i] == LOST), at[0])
    cut = {i for i, _, _ in claim.here}
    dims = [
        d if isinstance(d, int) and d != dim and i not in cut else LOST
        for i, d in enumerate(claim.dims)
    ]
    dims[free] = dim
    return Alignment(tuple(dims))


def _common(closure: Closure, some: TermSet | None) -> Closure:
    """Return what of some terms is reached."""
    if some is None:
        return closure
    found = {claims: terms.common(some) for claims, terms in closure.items()}
    return {claims: terms for claims, terms in found.items() if terms}


def _all(closure: Closure, end: int) -> TermSet:
    found = no_terms(end)
    for terms in closure.values():
        found = found.union(terms)
    return found


def _indexing(found: Provenance, source: Source, d: int) -> Iterator[int]:
    """Yield the dimensions of a tensor that index a dimension of a source."""
    claims: Sequence[Alignment] = [a for a, members in found.entries if source in members]
    for claim in claims:
        for i, dim in enumerate(claim.dims):
            if dim == d or (isinstance(dim, tuple) and any(d == factor.dim for factor in dim)):
                yield i


def _drawing(source: Source, node: Node | None) -> Mix:
    """Return the draw, or what stands for several, as what mixed its parameters."""
    if node is not None:
        return Mix(f"the draw {node.name}", str(node.location))
    return Mix(*source.name.rsplit(" at ", 1)) if " at " in source.name else Mix(source.name, "")
