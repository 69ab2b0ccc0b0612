"""Surrogate: the scalar whose autograd gradient is the estimate, and `backward` on it."""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import compress

import torch
from torch import Tensor

from ancestral.estimators.credit.blur import warn_of_blur
from ancestral.estimators.credit.collector import MANY, at_work, waiting
from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.diagnostics.observer import Observer, check_observer
from ancestral.estimators.gradient.estimator_choice import Choice, chosen
from ancestral.estimators.gradient.explain import account_of
from ancestral.estimators.gradient.log_probs_in_loss import (
    HeldScores,
    held_score_warning,
)
from ancestral.estimators.gradient.loss_pytree import Loss
from ancestral.estimators.gradient.missing_scores import nothing_to_learn
from ancestral.estimators.gradient.partial_credit import fixed_terms, with_read
from ancestral.estimators.gradient.passes import passes_of, scores_of
from ancestral.estimators.gradient.problem import (
    Problem,
    costs_to_check,
    problem_of,
    problem_of_costs,
    problem_to_check,
)
from ancestral.estimators.gradient.score_function import (
    NO_DENSITIES,
    added,
    against,
    box,
    densities_in,
    products,
)
from ancestral.estimators.gradient.subtraction import Baselines, check_baseline, subtracted
from ancestral.estimators.pathwise.routes import Route, keep, limit, routed
from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.dispatch.propagate import mark_lost
from ancestral.provenance.tensor.control_flow import controlling, decisions_of
from ancestral.provenance.tensor.tensor import alias, untrack
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.argument_checks import leaves_given
from ancestral.trace.context.compile import eagerly
from ancestral.trace.context.place import stacklevel
from ancestral.trace.graph.structure import Structure, TermShape
from ancestral.trace.intercept.autograd import shown
from ancestral.trace.intercept.straight_through import straight_through_warning
from ancestral.trace.nodes.node import Node
from ancestral.trace.nodes.versions import forget_forms
from ancestral.trace.recording.leaf_writes import refuse_writes
from ancestral.trace.recording.trace import Trace, install_backward


@eagerly
def surrogate(
    loss: Loss,
    gradient: Loss | None = None,
    *,
    baseline: Baselines = "auto",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    monitor: Observer | None = None,
) -> Tensor:
    """Return the scalar whose autograd derivatives of every order estimate those of E[loss].

        S = L + Σ_j Σ_t (□(τ_j[t]) - 1) · c_j[t] - Σ_i Σ_s □(τ_i[s]) (□(l_i[s]) - 1) · b_i[s]
        □(x) = exp(x - ⊥(x)),   l_i = log q(z_i),
        τ_j[t] = Σ of l_i[s] over (i, s) upstream of (j, t), and τ_i[s] of those upstream of (i, s)

    Its value is that of the loss. The first derivative is the estimator that `backward` uses, the
    higher ones are unbiased too. A term that is a site's own log q(z) at its own draw has its
    zero-mean gradient taken out. Foerster et al. (2018), "DiCE: the infinitely differentiable Monte
    Carlo estimator", equation 5, with every element as a node; Farquhar, Whiteson and Foerster
    (2019), "Loaded DiCE", equation 13, whose differences are □(τ + l) - □(τ) = □(τ) (□(l) - 1).

    Where a draw of ``rsample`` is scored for some terms only, and these have a derivative besides
    that by the draw, orders above the second raise a `DerivativeOrderError`; ``estimator="score"``
    has all.

    The arguments are those of `backward`, and what it raises is raised here.
    """
    check_baseline(baseline)
    check_observer(monitor)
    problem, estimate = decided(problem_of(loss, gradient), estimator, credit, gradient)
    return surrogate_of(problem, estimate, baseline, _scores_before, monitor)


def surrogate_of_costs(
    trace: Trace,
    left_out: Provenance | None,
    *,
    baseline: Baselines = "auto",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    monitor: Observer | None = None,
) -> Tensor:
    """Return the surrogate of declared costs; `left_out` decided whether there were others."""
    check_baseline(baseline)
    problem, estimate = decided(problem_of_costs(trace, left_out), estimator, credit)
    return surrogate_of(problem, estimate, baseline, _scores_before, monitor)


def surrogate_of(
    problem: Problem,
    estimate: Estimator,
    baseline: Baselines,
    before: Callable[[Problem, Collection[str]], Mapping[str, Tensor]] = lambda *_: {},
    monitor: Observer | None = None,
) -> Tensor:
    """Return the surrogate of a problem in which each site is decided.

    Args:
        problem: the problem.
        estimate: the credit of each site.
        baseline: what is subtracted from it.
        before: returns the scores upstream of the elements of some sites: without them, derivatives
            above the first have more variance, and the surrogate costs less.
        monitor: what is shown the scores.
    """
    universe, costs = problem.trace.universe, [detach(t.value) for t in problem.terms]
    passes = passes_of(problem, estimate, [cost.requires_grad_() for cost in costs])
    reaching = compress(problem.structure.sites, problem.structure.reaches)
    gated = [problem.nodes[site.name] for site in reaching if site.name in problem.nodes]
    held, passed = (
        frozenset[Node]().union(*sets)
        for sets in ([part.held for part in passes], [part.passed for part in passes])
    )
    kept_open = keep(gated, held - passed)
    draws = [kept_open | (part.held & passed) for part in passes]
    passes = [part.holding(problem, some) for part, some in zip(passes, draws, strict=True)]
    total = sum([part.loss(problem) for part in passes[1:]], passes[0].loss(problem))
    parts = [each for p in passes for each in p.products(problem, [None] * len(p.credits))]
    if parts and costs:
        bilinear = sum(parts, torch.zeros(()))
        upstream = torch.autograd.grad(bilinear, costs, create_graph=True, allow_unused=True)
        for number, term in (each for part in passes for each in part.terms.items()):
            scores = upstream[number]
            if scores is not None:
                total = total + (box(scores, universe) * term.live).sum()
    for term in (term for part in passes for term in part.owned):
        total = total - (box(untrack(term.leaf), universe) * term.weight).sum()
    found = subtracted(problem, baseline, passes)
    if monitor is not None:
        monitor.measure(partial(scores_of, problem, passes, found, is_routed=False))
    scores_before = before(problem, [name for _, name in found])
    for (at, name), less in found.items():
        node = problem.nodes[name]
        boxed = box(passes[at].scores.get(name, node.score), universe)
        if name in scores_before and tuple(boxed.shape) == node.shape:
            boxed = boxed * (1 + box(scores_before[name], universe))
        total = total - against(boxed, less, node)
    total = shown(sum(limit(set[Node]().union(*draws)), total), problem.trace.universe)
    return _followed(total, problem)


def _scores_before(problem: Problem, names: Collection[str]) -> dict[str, Tensor]:
    """Return for each element of some sites the sum of log q over what is upstream of it.

    As in a surrogate: the derivative of what adds up all products of a log-density with what lies
    downstream of it, by the latter.
    """
    sites = [site for site in problem.structure.sites if site.name in names and site.incoming]
    terms = tuple(TermShape(site.shape, site.incoming) for site in sites)
    like = detach(problem.loss)
    costs = [like.new_zeros(site.shape).requires_grad_() for site in sites]
    given = by_element(Structure(problem.structure.sites, terms), costs)
    pairs = [(problem.nodes[credit.name], credit) for credit in given]
    bilinear = sum(products(pairs, [None] * len(pairs)), like * 0)
    if not bilinear.requires_grad:
        return {}
    found = torch.autograd.grad(bilinear, costs, create_graph=True, allow_unused=True)
    return {s.name: tau for s, tau in zip(sites, found, strict=True) if tau is not None}


@eagerly
def backward(
    loss: Loss,
    gradient: Loss | None = None,
    *,
    baseline: Baselines = "auto",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    retain_graph: bool = False,
    inputs: Iterable[Tensor] | Tensor | None = None,
    monitor: Observer | None = None,
) -> None:
    """Accumulate an unbiased estimate of the gradient of E[loss] into the leaves' ``.grad``.

        ∇ E[L] = E[ ∇L + Σ_i Σ_s ∇ log q(z_i[s]) · (Σ_{(j,t) downstream of (i,s)} c_j[t] - b_i[s]) ]

    Takes the place of ``loss.backward()``. Pathwise through ``rsample``, score function through
    ``sample``; with `gradient`, `retain_graph` and `inputs` as there. A term that is a site's own
    log q(z) at its own draw counts as a cost, and its own gradient, of mean zero, is left out,
    unless Python may have chosen the term by that draw.
    Schulman et al. (2015), "Gradient estimation using stochastic computation graphs", theorem 1.

    `baseline`, `estimator` and `credit` may each be one for all sites, or one for each pattern of
    names, ``baseline={"z*": RunningMean(), "*": "auto"}``, or stand in the ``infer`` of a site.

    Args:
        loss: the loss, [] unless `gradient` is given; or dictionaries, lists and tuples of losses
            in any nesting, which count with their sum.
        gradient: what each element of the loss counts, as in `torch.Tensor.backward`; in the same
            nesting as the loss.
        baseline: what is subtracted from the downstream costs of each site, as the loss weighs
            them: a function of its credit that does not depend on its draw. By default, "auto",
            what the other elements predict, as `LeaveOneOut` does, wherever some are apart; None
            for nothing.
        estimator: how a site drawn by ``rsample`` gets its gradient. By default, "auto", pathwise
            for the terms that its value reaches by smooth routes only, and by its score function
            for those behind a step without a useful derivative. "pathwise" forces the former, and
            warns of such a step; "score" forces the latter.
        credit: which costs count for a site: by default, `by_element`, for each element the cost
            elements downstream of it.
        retain_graph: keep the recording, for another gradient.
        inputs: accumulate into these leaves only.
        monitor: what measures the variance of the scores, an `ancestral.Monitor`.

    Raises:
        ValueError: if `estimator` is none, or `inputs` has something that takes no gradient.
        TypeError: if `baseline` or `credit` is no function, or `monitor` no monitor.
        BaselineError: if what it returns does not fit a site, or depends on the very draw.
        LossError: if `loss` is no tensor, not scalar, without provenance, or of no recording; the
            message names the keys of the leaf that is wrong.
        OtherRecordingError: if it depends on sites of another recording.
        SettledError: if the recording's gradient was already taken.
        NonFiniteCostError: if a cost is NaN or infinite.
    """
    check_baseline(baseline)
    check_observer(monitor)
    into = leaves_given(inputs)
    problem, estimate = decided(problem_to_check(loss, gradient), estimator, credit, gradient)
    problem.trace.account = account_of(problem)
    descend(problem, baseline, estimate, retain_graph, into, monitor)


def decided(
    problem: Problem,
    estimator: PerSite[Choice],
    credit: PerSite[Estimator],
    gradient: Loss | None = None,
    *,
    may_hold: bool = True,
) -> tuple[Problem, Estimator]:
    """Decide for each site how it gets its gradient; warn where a loss that may holds that."""
    problem, estimate = chosen(problem, estimator, credit)
    estimate = with_read(problem, estimate)
    universe = problem.trace.universe
    if decisions_of(universe).noted:
        values = [term.value for term in problem.terms]
        warn_of_blur(problem.structure, problem.sources, values, universe, problem.blurring)
    if not may_hold or not problem.loss.requires_grad:
        return problem, estimate  # nothing but scores
    is_scored, held = problem.scored, list[Node]()
    scored = [node for node in problem.nodes.values() if node in is_scored]
    whole = [node for node in scored if node.name not in problem.partly]
    held.extend(HeldScores(problem.trace.universe, whole, problem.terms, gradient).found)
    if problem.partly:
        some = [node for node in scored if node.name in problem.partly]
        held.extend(HeldScores(problem.trace.universe, some, fixed_terms(problem), gradient).found)
    if held:
        warnings.warn(held_score_warning(held), stacklevel=stacklevel())
    lines = problem.trace.straight_through
    for node in scored:
        if node.name in lines and node not in held:
            warnings.warn(straight_through_warning(node, lines[node.name]), stacklevel=stacklevel())
    return problem, estimate


def descend(
    problem: Problem,
    baseline: Baselines,
    estimator: Estimator,
    retain_graph: bool,
    inputs: tuple[Tensor, ...] | None,
    monitor: Observer | None = None,
) -> None:
    """Accumulate the gradient of a problem in which each site is decided."""
    is_last = not retain_graph and len(problem.nodes) > MANY
    if is_last:  # no other loss is to come, and what follows needs as much memory
        for node in problem.nodes.values():
            forget_forms(node.versions)
    try:
        routes, measure = _routes_of(problem, baseline, estimator, monitor)
    except Exception as error:
        if is_last:
            error.add_note(_ANEW)
        raise
    if not routes:
        raise nothing_to_learn(problem.upstream)
    total = routes[0].total
    for route in routes[1:]:
        total = total + route.total
    total = shown(total, problem.trace.universe)
    if retain_graph:  # else what is accumulated is a constant at once
        total = _followed(total, problem)
    try:
        if measure is not None:
            measure()
        with routed(routes) if problem.partly else nullcontext():
            torch.autograd.backward(total, retain_graph=retain_graph, inputs=inputs)
    except RuntimeError as error:
        scored = [node for node in problem.nodes.values() if node in problem.scored]
        refuse_writes(problem.trace.leaves, scored, error)
        raise
    finally:
        for node in problem.nodes.values():
            if node.gate is not None and node.gate.is_kept is not None:
                node.gate.is_shut = node.gate.is_kept
    _check_last(problem)
    if not retain_graph:
        settle(problem.trace)


def _routes_of(
    problem: Problem, baseline: Baselines, estimator: Estimator, monitor: Observer | None
) -> tuple[list[Route], Callable[[], None] | None]:
    """Return what autograd differentiates, without the credits, and what shows a monitor those."""
    routes: list[Route] = []
    with waiting if len(problem.nodes) > MANY else at_work:
        passes = passes_of(problem, estimator, [term.value for term in problem.terms])
        less = subtracted(problem, baseline, passes)
        known = NO_DENSITIES if problem.partly else densities_in(problem.terms)
        for at, part in enumerate(passes):
            some = [less.get((at, credit.name)) for credit in part.credits]
            own, rest = part.owning(known)
            parts = [part.loss(problem), *part.products(problem, some, known, own), *rest]
            parts = [part for part in parts if part.requires_grad]
            if parts:
                routes.append(Route(added(parts), part.held, part.passed))
    scores = partial(scores_of, problem, passes, less, known, is_routed=bool(problem.partly))
    return routes, None if monitor is None else partial(monitor.measure, scores)


def _check_last(problem: Problem) -> None:
    """Look at the numbers of a device that runs ahead, now that all its work is queued."""
    try:
        problem.check()
    except Exception as error:
        error.add_note(_LATE)
        raise


_ANEW = (
    "What a further loss of this recording computes of the parameters of a site counts as one "
    "cost; record anew for less variance"
)
_LATE = (
    "It was found after the backward pass, for which Python does not wait: what that has added to "
    ".grad is of no use; zero it before the next step"
)


def settle(trace: Trace) -> None:
    """Mark the gradient of a recording as taken: its values are constants from now on."""
    trace.universe.become("settled")
    trace.universe.owner = None


def backward_of_costs(
    trace: Trace,
    *,
    baseline: Baselines = "auto",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    retain_graph: bool = False,
    inputs: Iterable[Tensor] | Tensor | None = None,
    monitor: Observer | None = None,
) -> None:
    """Accumulate an estimate of the gradient of the expected sum of a trace's declared costs."""
    check_baseline(baseline)
    check_observer(monitor)
    into = leaves_given(inputs)
    problem, estimate = decided(costs_to_check(trace), estimator, credit)
    problem.trace.account = account_of(problem)
    descend(problem, baseline, estimate, retain_graph, into, monitor)


install_backward(backward_of_costs)


def _followed(scalar: Tensor, problem: Problem) -> Tensor:
    """Let a scalar depend on all that the loss does, as long as its recording goes on.

    Its gradient is a value of the program then, which may draw by it, or decide on it.
    """
    if not problem.trace.is_open:
        return scalar.clone() if scalar is problem.loss else scalar  # which is a view of the loss
    found = [term.provenance for term in problem.terms if term.provenance is not None]
    own = alias(scalar)
    mark_lost(own, list(dict.fromkeys([*found, *filter(None, [controlling()])])))
    return own
