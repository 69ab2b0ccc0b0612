"""Gradient problem: a loss taken apart into the facts that an estimator needs.

These are the terms of the loss, the sites that they depend on, and which depends on which.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from itertools import compress
from operator import attrgetter
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ancestral.estimators.credit.blur import Blur
from ancestral.estimators.credit.collector import MANY, at_work, waiting
from ancestral.estimators.credit.declared_costs import cost_of, is_cost, non_finite_density
from ancestral.estimators.gradient.decompose import Constant
from ancestral.estimators.gradient.loss_pytree import (
    Loss,
    LossError,
    check_shapes,
    refuse_scored,
    total_of,
)
from ancestral.estimators.gradient.loss_terms import (
    Check,
    NonFiniteCostError,
    Term,
    known,
    made_by,
    parts_of,
    vertices_of,
)
from ancestral.estimators.gradient.missing_scores import (
    forgotten_recording,
    refuse_kinked,
    refuse_others,
    universe_of_choice,
)
from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.provenance.tensor.control_flow import Decisions, Escape, decisions_of
from ancestral.provenance.tensor.tensor import Unseen, provenance, untrack
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.other_threads import Apart
from ancestral.trace.graph.reachability import TermSet, no_terms, reaches
from ancestral.trace.graph.structure import Row, Structure, structure_of
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.enumerated_log_prob import Spread, refuse_values
from ancestral.trace.recording.leaf_writes import SettledError, parted, refuse_writes
from ancestral.trace.recording.trace import Trace

T = TypeVar("T")


class CaughtError(RuntimeError):
    """Something raised because of drawn values, and the program went on."""


def _caught(escape: Escape, text: str) -> CaughtError:
    """Return the error, with the line, the sources and what was raised."""
    names = ", ".join(repr(name) for name in sorted(escape.sources))
    return CaughtError(
        f"{escape.filename}:{escape.line} raised ({text}) because of values that depend on "
        f"{names}, and the error was caught: the runs in which it does not raise show no such "
        "dependency, so that no gradient of either would be unbiased; test the values with an "
        "`if` before instead of catching the error"
    )


class Partly(NamedTuple):
    """The terms that a site reaches: those behind a kink, for which alone it is scored, and others.

    What they are depends on what was read before each term was computed, and so on values that the
    term itself depends on: a run that goes another way makes its own choice for its own terms.
    """

    scored: TermSet
    pathwise: TermSet


@dataclass(frozen=True, eq=False)
class Problem:
    """A loss taken apart.

    `kinks` has, for each site whose value reaches a term through a step without a useful
    derivative, the source that stands for that step; `partly`, of those that reach other terms by
    smooth routes only, the terms of both kinds. `blurring` are the decisions that
    every term depends on, whenever it was finished. `check` is to be made when all work of a device
    is queued: to look at its numbers is to wait for them.
    """

    trace: Trace
    nodes: dict[str, Node]
    structure: Structure
    terms: list[Term]
    made: tuple[str, ...]  # what each term was made by
    loss: Tensor  # [], plain, with its history
    sources: tuple[Source, ...]  # of the sites of the structure
    kinks: dict[str, Source]
    partly: dict[str, Partly]
    blurring: frozenset[Source] = frozenset()
    check: Check = known

    def checked(self) -> "Problem":
        """Return the same, once its numbers were found to be right; raise if they are not."""
        self.check()
        return self if self.check is known else replace(self, check=known)

    @cached_property
    def scored(self) -> frozenset[Node]:
        """The sites that get a score."""
        return frozenset([self.nodes[v.name] for v in self.structure.sites if v.needs_score])

    @property
    def upstream(self) -> list[Node]:
        """The draws that some term depends on, in program order."""
        known = zip(self.structure.sites, self.structure.reaches, strict=True)
        return [self.nodes[v.name] for v, reaches in known if reaches and v.name in self.nodes]


def problem_of(loss: Loss, gradient: Loss | None) -> Problem:
    """Check a loss and take it apart; see `ancestral.estimators.gradient.surrogate.backward`."""
    return problem_to_check(loss, gradient).checked()


def problem_to_check(loss: Loss, gradient: Loss | None) -> Problem:
    """Take a loss apart; its check is to be made."""
    return _used(_examined(loss, gradient))


def problem_of_costs(trace: Trace, left_out: Provenance | None = None) -> Problem:
    """Take the sum of the declared costs of a trace apart, and check it."""
    return costs_to_check(trace, left_out).checked()


def costs_to_check(trace: Trace, left_out: Provenance | None = None) -> Problem:
    """Take the sum of the declared costs of a trace apart; its check is to be made."""
    return _used(_examined_costs(trace, left_out))


class Cost(NamedTuple):
    """A cost, how often it counts, and what it adds to a loss: a plain tensor of its shape."""

    value: Tensor
    weight: float
    counted: Tensor


def problem_of_terms(trace: Trace, costs: Sequence[Cost], whole: Tensor) -> Problem | None:
    """Take a sum of finite costs apart that is known by its parts; None if one is a sum itself.

    None too if Python may have chosen among them. `whole` is what they add up to, [], plain.
    """
    decisions, known = decisions_of(trace.universe), [provenance(cost.value) for cost in costs]
    are_chosen = decisions.finished is not None or (None in known and decisions.noted)
    if are_chosen or any(getattr(cost.value, "_form", None) is not None for cost in costs):
        return None
    if decisions.failures:
        raise _caught(*decisions.failures[0])
    with Unseen():  # of plain tensors
        counted = [detach(cost.counted) for cost in costs]
    every = zip(counted, costs, known, strict=True)
    terms = [Term(each, cost.value, cost.weight, found) for each, cost, found in every]
    return _used(_assemble(_outermost(trace), terms, whole, decisions))


def _used(problem: Problem) -> Problem:
    """Note that a gradient of a recording is taken: its scores are not lost."""
    here, ahead = parted(problem.trace.leaves)
    refuse_writes(here, problem.scored)
    if ahead:
        later = partial(refuse_writes, ahead, problem.scored)
        problem = replace(problem, check=partial(_all_of, [problem.check, later]))
    if problem.trace.universe.state == "used":
        refuse_scored(problem.loss, problem.scored, problem.trace.universe)
    problem.trace.universe.become("used")
    return problem


def examined(loss: Loss, gradient: Loss | None) -> Problem:
    """Take a loss apart as `problem_of` does, with no gradient in mind."""
    return _examined(loss, gradient).checked()


def examined_costs(trace: Trace, left_out: Provenance | None = None) -> Problem:
    """Take the declared costs apart as `problem_of_costs` does, with no gradient in mind.

    Args:
        trace: the recording.
        left_out: what decided whether others were to be declared, which count nothing here.
    """
    return _examined_costs(trace, left_out).checked()


def _examined(loss: Loss, gradient: Loss | None) -> Problem:
    loss, gradient = total_of(loss, gradient)
    known = provenance(loss)
    universe, plain = universe_of_choice() if known is None else known.universe, untrack(loss)
    check_shapes(plain, gradient)
    if universe.state == "settled":
        raise SettledError.taken()
    trace, decisions = universe.owner, decisions_of(universe)
    if not isinstance(trace, Trace):
        if universe.is_orphaned:
            raise forgotten_recording(universe)
        if isinstance(trace, Apart):
            trace.refuse()
        raise LossError("the loss depends on tracked tensors only, on no draw of a recording")
    if decisions.failures:
        raise _caught(*decisions.failures[0])
    if known is not None:
        refuse_values(known)
    with waiting if len(universe.sources) > MANY else at_work:
        found, constants, check = parts_of(loss, gradient)
        whole = plain if gradient is None else plain * detach(gradient)
        if whole.ndim or not whole.dtype.is_floating_point:
            whole = whole.sum()
        terms = [*found, *(_constants(constants, decisions) if constants else ())]
        if decisions.finished is None:
            return _assemble(trace, terms, whole, decisions, check)
        terms = [tainted(term, decisions.finished) for term in terms]
        problem = _assemble(trace, terms, whole, decisions, check)
        return replace(problem, blurring=decisions.finished.members)


def _examined_costs(trace: Trace, left_out: Provenance | None = None) -> Problem:
    if trace.universe.state == "settled":
        owner = trace.universe.owner
        is_loaded = isinstance(owner, Trace) and owner.is_loaded
        raise SettledError.loaded() if is_loaded else SettledError.taken()
    costs = [node for node in trace.values() if is_cost(node)]
    if not costs and left_out is None:
        raise LossError(
            "the recording declares no cost: use an.cost(name, value), an.factor, or an.sample "
            "with obs=; or pass the loss to an.backward"
        )
    decisions = decisions_of(trace.universe)
    if decisions.failures:
        raise _caught(*decisions.failures[0])
    Spread(trace).refuse(costs, "cost {node}")
    terms: list[Term] = []
    checks: list[Check] = []
    for node in costs:
        value, counts = cost_of(node)
        found, constants, check = _naming(node, partial(parts_of, value, counts))
        if check is not known:
            checks.append(partial(_naming, node, check))
        parts = [*found, *_constants(constants, decisions)]
        # What Python branched on before the declaration counts, what it did later does not.
        terms.extend(_declared(term, node.control) for term in parts)
    totals = [(untrack(v) * n).sum() for v, n in map(cost_of, costs)] or [
        torch.zeros((), dtype=torch.double)
    ]
    loss = torch.stack(totals).sum()
    if left_out is not None:
        nothing = torch.zeros_like(loss)
        terms.append(tainted(Term(detach(nothing), nothing, 1.0, None), left_out))
    check = partial(_all_of, checks) if checks else known
    return _assemble(_outermost(trace), terms, loss, decisions, check)


def _all_of(checks: Sequence[Check]) -> None:
    for check in checks:
        check()


def _naming(node: Node, asked: Callable[[], T]) -> T:
    """Return what a function tells of the cost of a node; its errors name the node."""
    try:
        return asked()
    except NonFiniteCostError as error:
        if node.fn is not None:
            raise non_finite_density(node, "program") from None
        error.add_note(f"It is cost {node.name!r} ({node.location}).")
        raise


def _constants(constants: Sequence[Constant], decisions: Decisions) -> list[Term]:
    """Return what was added to a loss that depends on no source, as one term for each decision.

    A number that was added after an escape may have been chosen by it. Those of different decisions
    stay apart: whether one counts for a draw must not depend on what came after.
    """
    sums: dict[Provenance | None, Tensor] = {}
    for serial, live in constants:
        decision = decisions.at(serial)
        sums[decision] = sums[decision] + live if decision in sums else live
    return [tainted(Term(detach(x), x, 1.0, None), decision) for decision, x in sums.items()]


def tainted(term: Term, decision: Provenance | None) -> Term:
    """Return a term that depends on a decision of Python too."""
    if decision is None:
        return term
    lost = decision.lost(tuple(term.value.shape))
    return replace(
        term, provenance=lost if term.provenance is None else term.provenance.union(lost)
    )


def _declared(term: Term, control: Provenance | None) -> Term:
    """Give a term the sources that its declaration depends on and itself does not."""
    if control is None:
        return term
    known = frozenset[Source]() if term.provenance is None else term.provenance.members
    extra = control.members - known
    return tainted(term, control.universe.depending(extra, ()) if extra else None)


def _outermost(trace: Trace) -> Trace:
    owner = trace.universe.owner
    return owner if isinstance(owner, Trace) else trace


def _assemble(
    trace: Trace, terms: list[Term], loss: Tensor, decisions: Decisions, check: Check = known
) -> Problem:
    """Make the problem of these terms."""
    universe = trace.universe
    nodes = {node.name: node for node in trace.everything if node.is_drawn}
    kept = [source for source in universe.sources if source.universe is universe]
    # Terms of earlier recordings are constants, and would keep those recordings alive.
    made, ours = made_by(terms), list[tuple[Term, str]]()
    shapes: list[tuple[Shape, Provenance | None]] = []
    for term, op in zip(terms, made, strict=True):
        found = term.provenance
        if found is not None and found.universe is universe:
            ours.append((term, op))
        elif found is not None:
            found = universe.adopt(found)
        shapes.append((tuple(term.value.shape), found))
    trace.note_costs(vertices_of(ours))
    rows = [_row(source, nodes) for source in kept]
    structure = structure_of(universe, rows, shapes)
    if decisions.noted:
        learned = {node.name for node in nodes.values() if node.is_learned}
        nothing = [n for n, t in enumerate(terms) if t.value.numel() == 1 and not t.value]
        decisions.blurred = Blur(structure, kept, learned, nothing).count
    reaching = [*compress(kept, structure.reaches)]
    direct = [*map(attrgetter("provenance"), terms), *map(attrgetter("behind"), rows)]
    has_adopted = len(kept) < len(universe.sources)
    if has_adopted or not {*map(_universe, filter(None, direct))} <= {universe}:
        upstream = [nodes[s.name].param_provenance for s in reaching if s.name in nodes]
        refuse_others(universe, [*map(attrgetter("provenance"), terms), *upstream])
    kinks: dict[str, Source] = {}
    stepped = (
        [source for source in reaching if source.kink_of is not None] if universe.kinks else ()
    )
    for source, kink in universe.kinked(stepped).items() if stepped else ():
        refuse_kinked(source, universe)
        kinks[source.name] = kink
    partly = _partly_kinked(structure, kept, universe) if kinks else {}
    return Problem(
        trace, nodes, structure, terms, made, loss, tuple(kept), kinks, partly, check=check
    )


def _partly_kinked(
    structure: Structure, kept: list[Source], universe: Universe
) -> dict[str, Partly]:
    """Return the terms of each site that reaches some through kinks, and others not."""
    kinked: dict[str, TermSet] = {}
    partly: dict[str, Partly] = {}
    nothing = no_terms(len(structure.terms))
    for number, closure, _ in reaches(structure):  # a kink comes after its site, and is met before
        source = kept[number]
        if source.kink_of is None and source.name not in kinked:
            continue
        terms = reduce(TermSet.union, closure.values(), nothing)
        if source.kink_of is not None:
            for site in universe.kinked([source]) if terms else ():
                kinked[site.name] = terms.union(kinked.get(site.name, terms))
        elif others := terms.without(kinked[source.name]):
            partly[source.name] = Partly(kinked[source.name], others)
    return partly


_universe = attrgetter("universe")


def _row(source: Source, nodes: dict[str, Node]) -> Row:
    if source.stands_for is not None or source.kink_of is not None:
        return Row(source, source.stands_for, needs_score=False)
    if source.is_known:  # the value is given: what its density depends on does not reach it
        return Row(source, None, needs_score=False)
    node = nodes[source.name]
    is_score = node.is_learned and not node.is_reparameterized
    return Row(source, node.param_provenance, is_score)
