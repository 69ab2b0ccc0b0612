"""Gradient problem: a loss taken apart into the facts that an estimator needs.

These are the terms of the loss, the sites that they depend on, and which depends on which.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import compress
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from ancestral.estimators.credit.blur import Blur
from ancestral.estimators.credit.declared_costs import cost_of, is_cost
from ancestral.estimators.gradient.loss_pytree import Loss, LossError, total_of
from ancestral.estimators.gradient.loss_terms import (
    NonFiniteCostError,
    Parts,
    Term,
    non_finite_density,
    terms_of,
    vertices_of,
)
from ancestral.estimators.gradient.missing_scores import (
    forgotten_recording,
    refuse_kinked,
    refuse_others,
)
from ancestral.provenance.algebra.alignment import Shape
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe
from ancestral.provenance.tensor.control_flow import Decisions, Escape, decisions_of, recording
from ancestral.provenance.tensor.tensor import Unseen, provenance, untrack
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.other_threads import Apart
from ancestral.trace.graph.reachability import TermSet, no_terms, reaches
from ancestral.trace.graph.structure import Row, Structure, structure_of
from ancestral.trace.nodes.autograd_graph import nodes_of
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.enumerated_log_prob import Spread, refuse_values
from ancestral.trace.recording.leaf_writes import SettledError, refuse_writes
from ancestral.trace.recording.trace import Trace
from ancestral.trace.recording.untracked_loss import choosing


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


SURROGATE = "ancestral.surrogate"
"""Where a node of autograd says in its metadata which surrogate of what recording it belongs to."""


class ScoredLossError(ValueError):
    """A loss holds a surrogate of the same recording, or the graph of its gradient."""


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
    every term depends on, whenever it was finished.
    """

    trace: Trace
    nodes: dict[str, Node]
    structure: Structure
    terms: list[Term]
    loss: Tensor  # [], plain, with its history
    sources: tuple[Source, ...]  # of the sites of the structure
    kinks: dict[str, Source]
    partly: dict[str, Partly]
    blurring: frozenset[Source] = frozenset()

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
    return _used(examined(loss, gradient))


def problem_of_costs(trace: Trace, left_out: Provenance | None = None) -> Problem:
    """Take the sum of the declared costs of a trace apart."""
    return _used(examined_costs(trace, left_out))


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
    refuse_writes(problem.trace.leaves, problem.scored)
    if problem.trace.universe.state == "used":
        _refuse_scored(problem)
    problem.trace.universe.become("used")
    return problem


def _refuse_scored(problem: Problem) -> None:
    """Raise if the graph of a loss, or of a score, goes through a surrogate of its recording."""
    learned = [t for node in problem.scored if node.fn for t, _ in parameters(node.fn)]
    token = problem.trace.universe.token
    for node in nodes_of([problem.loss, *(t for t in learned if t.requires_grad)]):
        found = node.metadata.get(SURROGATE) if node.name().startswith("Exp") else None
        if found is not None and found[0] == token:
            raise ScoredLossError(
                f"the loss is computed from an.surrogate at {found[1]}, or from its gradient with "
                "create_graph=True: the derivatives of both hold the scores of the draws already, "
                "which would count twice; take that gradient without create_graph, so that it is a "
                "constant, or write the surrogate of that step as "
                "(d.log_prob(z) * cost.detach()).sum()"
            )


def examined(loss: Loss, gradient: Loss | None) -> Problem:
    """Take a loss apart as `problem_of` does, with no gradient in mind."""
    loss, gradient = total_of(loss, gradient)
    known = provenance(loss)
    universe, plain = _universe_of() if known is None else known.universe, untrack(loss)
    _check_shapes(plain, gradient)
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
    parts = terms_of(loss, gradient)
    whole = plain if gradient is None else plain * detach(gradient)
    if whole.ndim or not whole.dtype.is_floating_point:
        whole = whole.sum()
    terms = [*parts.terms, *(_constants(parts, decisions) if parts.constants else ())]
    if decisions.finished is not None:
        terms = [tainted(term, decisions.finished) for term in terms]
    problem = _assemble(trace, terms, whole, decisions)
    finished = decisions.finished
    return problem if finished is None else replace(problem, blurring=finished.members)


def examined_costs(trace: Trace, left_out: Provenance | None = None) -> Problem:
    """Take the declared costs apart as `problem_of_costs` does, with no gradient in mind.

    Args:
        trace: the recording.
        left_out: what decided whether others were to be declared, which count nothing here.
    """
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
    for node in costs:
        value, counts = cost_of(node)
        found = _terms_of(node, value, counts)
        parts = [*found.terms, *_constants(found, decisions)]
        # What Python branched on before the declaration counts, what it did later does not.
        terms.extend(_declared(term, node.control) for term in parts)
    totals = [(untrack(v) * n).sum() for v, n in map(cost_of, costs)] or [
        torch.zeros((), dtype=torch.double)
    ]
    loss = torch.stack(totals).sum()
    if left_out is not None:
        nothing = torch.zeros_like(loss)
        terms.append(tainted(Term(detach(nothing), nothing, 1.0, None), left_out))
    return _assemble(_outermost(trace), terms, loss, decisions)


def _terms_of(node: Node, value: Tensor, counts: Tensor) -> Parts:
    """Take the cost that a node stands for apart; an error of its numbers names the node."""
    try:
        return terms_of(value, counts)
    except NonFiniteCostError as error:
        if node.fn is not None:
            raise non_finite_density(node, "program") from None
        error.add_note(f"It is cost {node.name!r} ({node.location}).")
        raise


def _universe_of() -> Universe:
    """Return the recording in which Python may have chosen a loss that carries no provenance."""
    around = recording.get()
    if around is not None and around.state == "settled":
        raise SettledError.taken()
    chosen = choosing()
    if len(chosen) == 1:
        return chosen[0]  # Python may have chosen this loss among others
    if chosen:
        reads = [decisions_of(universe).noted[-1].escape for universe in chosen]
        raise LossError(
            "the loss carries no provenance, and several recordings may have chosen it by what "
            f"Python read at {', '.join(f'{read.filename}:{read.line}' for read in reads)}; "
            "take the gradient of each before the next begins, or declare the loss within its own "
            'recording: an.cost("loss", loss), then trace.backward()'
        )
    raise LossError(
        "the loss carries no provenance: it depends on no draw of a recording; draw and "
        "compute it within `with an.record():`. One that Python chose by a drawn value is to be "
        "computed there too, after the choice (loss * 1), or declared (an.cost); only of one "
        "that no draw has a part in, torch's own backward is the gradient"
    )


def _check_shapes(loss: Tensor, gradient: Tensor | None) -> None:
    size = tuple(loss.shape)
    if loss.is_complex():
        raise LossError(f"the loss is of {loss.dtype}; expected real numbers, such as its .real")
    if gradient is None and loss.numel() != 1:
        raise LossError(
            f"the loss has shape {list(size)}; expected a scalar: sum or average it, or pass "
            "gradient= as to torch.Tensor.backward"
        )
    if gradient is not None and tuple(gradient.shape) != size:
        raise LossError(f"gradient has shape {list(gradient.shape)}; the loss has {list(size)}")


def _constants(parts: Parts, decisions: Decisions) -> list[Term]:
    """Return what was added to a loss that depends on no source, as one term for each decision.

    A number that was added after an escape may have been chosen by it. Those of different decisions
    stay apart: whether one counts for a draw must not depend on what came after.
    """
    sums: dict[Provenance | None, Tensor] = {}
    for serial, live in parts.constants:
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


def _assemble(trace: Trace, terms: list[Term], loss: Tensor, decisions: Decisions) -> Problem:
    """Make the problem of these terms."""
    universe = trace.universe
    nodes = {node.name: node for node in trace.everything if node.is_drawn}
    kept = [source for source in universe.sources if source.universe is universe]
    # Terms of earlier recordings are constants, and would keep those recordings alive.
    ours: list[Term] = []
    shapes: list[tuple[Shape, Provenance | None]] = []
    for term in terms:
        found = term.provenance
        if found is not None and found.universe is universe:
            ours.append(term)
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
    return Problem(trace, nodes, structure, terms, loss, tuple(kept), kinks, partly)


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
