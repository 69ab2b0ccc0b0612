"""The surrogate: the scalar whose autograd gradient is the estimate, and `backward` on it."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.baselines import Baseline
from ancestral.estimators.credit import Credit, Estimator, by_element
from ancestral.estimators.terms import Term, owned, terms_of, vertices_of
from ancestral.provenance.algebra import LOST, Provenance, Universe
from ancestral.provenance.operators import before_backward
from ancestral.provenance.tensor import provenance, untrack
from ancestral.trace.node import Node
from ancestral.trace.record import Trace, install_backward
from ancestral.trace.structure import Structure, TermShape, Vertex, restricted


class LossError(ValueError):
    """A loss of which no gradient can be taken."""


class SettledError(RuntimeError):
    """The gradient of a recording was already taken."""

    def __init__(self) -> None:
        """Say what to do."""
        super().__init__(
            "the gradient of this recording was already taken, and its graph was freed; pass "
            "retain_graph=True to the first backward, or record again"
        )


class OtherRecordingError(ValueError):
    """A loss depends on a site of another recording whose gradient was never taken."""

    def __init__(self, node: Node) -> None:
        """Name the site."""
        super().__init__(
            f"the loss depends on site {node.name!r} ({node.location}) of another recording, whose "
            "score would be lost; compute both within one an.record(), take the gradient of the "
            "other recording first, or cut the dependency with an.untrack"
        )


@dataclass(frozen=True, eq=False)
class _Problem:
    """A loss taken apart: what an estimator needs to know of it."""

    trace: Trace
    nodes: dict[str, Node]
    structure: Structure
    terms: list[Term]
    loss: Tensor  # [], plain, with its history


def surrogate(
    loss: Tensor,
    gradient: Tensor | None = None,
    *,
    baseline: Baseline | None = None,
    estimator: Estimator = by_element,
) -> Tensor:
    """Return the scalar whose autograd derivatives of every order estimate those of E[loss].

        S = L + Σ_j Σ_t (□(τ_j[t]) - 1) · c_j[t] - Σ_i Σ_s (□(l_i[s]) - 1) · b_i[s]
        □(x) = exp(x - ⊥(x)),   l_i = log q(z_i),
        τ_j[t] = Σ of l_i[s] over (i, s) upstream of (j, t)

    Its value is that of the loss. The first derivative is the estimator that `backward` uses, the
    higher ones are unbiased too. A term that is a site's own log q(z) at its own draw has its
    zero-mean gradient taken out. Foerster et al. (2018), "DiCE: the infinitely differentiable Monte
    Carlo estimator", equation 5, with every element as a node.

    Args:
        loss: the loss, [] unless `gradient` is given.
        gradient: what each element of the loss counts, as in `torch.Tensor.backward`.
        baseline: what is subtracted from the downstream costs of each site.
        estimator: which costs each site is given credit for.

    Raises:
        LossError: if `loss` is no tensor, not scalar, without provenance, or of no recording.
        OtherRecordingError: if it depends on sites of another recording.
        SettledError: if the recording's gradient was already taken.
        NonFiniteCostError: if a cost is NaN or infinite.
    """
    problem = _problem(loss, gradient)
    costs = [term.value.detach().requires_grad_() for term in problem.terms]
    total = problem.loss
    given = estimator(problem.structure, costs)
    pairs = [(problem.nodes[credit.name], credit) for credit in given]
    if pairs and costs:
        bilinear = sum((_product(node, c) for node, c in pairs), torch.zeros(()))
        upstream = torch.autograd.grad(bilinear, costs, create_graph=True, allow_unused=True)
        for term, scores in zip(problem.terms, upstream, strict=True):
            if scores is not None:
                total = total + (_box(scores) * term.live).sum()
    for term in owned(problem.terms, problem.trace.universe):
        total = total - (_box(untrack(term.leaf)) * term.weight).sum()
    if baseline is not None:
        for node, credit in pairs:
            total = total - _against(_box(node.log_prob), baseline(credit).detach(), node)
    return total


def backward(
    loss: Tensor,
    gradient: Tensor | None = None,
    *,
    baseline: Baseline | None = None,
    estimator: Estimator = by_element,
    retain_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """Accumulate an unbiased estimate of the gradient of E[loss] into the leaves' ``.grad``.

        ∇ E[L] = E[ ∇L + Σ_i Σ_s ∇ log q(z_i[s]) · (Σ_{(j,t) downstream of (i,s)} c_j[t] - b_i[s]) ]

    Takes the place of ``loss.backward()``. Pathwise through ``rsample``, score function through
    ``sample``; with `gradient`, `retain_graph` and `inputs` as there. A term that is a site's own
    log q(z) at its own draw counts as a cost, and its own gradient, of mean zero, is left out.
    Schulman et al. (2015), "Gradient estimation using stochastic computation graphs", theorem 1.

    Args:
        loss: the loss, [] unless `gradient` is given.
        gradient: what each element of the loss counts, as in `torch.Tensor.backward`.
        baseline: what is subtracted from the downstream costs of each site.
        estimator: which costs each site is given credit for.
        retain_graph: keep the recording, for another gradient.
        inputs: accumulate into these leaves only.

    Raises:
        LossError: if `loss` is no tensor, not scalar, without provenance, or of no recording.
        OtherRecordingError: if it depends on sites of another recording.
        SettledError: if the recording's gradient was already taken.
        NonFiniteCostError: if a cost is NaN or infinite.
    """
    problem = _problem(loss, gradient)
    _descend(problem, baseline, estimator, retain_graph, inputs)


class MissingScoreWarning(UserWarning):
    """`loss.backward()` was called where `an.backward(loss)` was meant."""


def _warn_of_missing_scores(found: Provenance) -> None:
    """Warn if the plain gradient of a tensor leaves out scores that nobody has asked for."""
    owner = found.universe.owner
    if isinstance(owner, Trace) and found.universe.state == "open":
        names = [repr(n.name) for n in owner.values() if n.is_score and n.is_learned]
        if names:
            warnings.warn(
                f"loss.backward() leaves out the score function of {', '.join(names[:5])}"
                f"{' ...' if len(names) > 5 else ''}: the gradient is biased; call "
                "an.backward(loss) instead, or an.untrack(loss).backward() if that is meant",
                MissingScoreWarning,
                stacklevel=3,
            )


before_backward.append(_warn_of_missing_scores)


def _descend(
    problem: _Problem,
    baseline: Baseline | None,
    estimator: Estimator,
    retain_graph: bool,
    inputs: Sequence[Tensor] | None,
) -> None:
    given = estimator(problem.structure, [term.value for term in problem.terms])
    parts = [problem.loss] if problem.loss.requires_grad else []
    for credit in given:
        node = problem.nodes[credit.name]
        less = None if baseline is None else baseline(credit)
        parts.append(_product(node, credit, less))
    for term in owned(problem.terms, problem.trace.universe):
        # The score has mean zero; a learned coefficient of it has a gradient of its own.
        weight = term.weight.detach() if isinstance(term.weight, Tensor) else term.weight
        parts.append(-(untrack(term.leaf) * weight).sum())
    parts = [part for part in parts if part.requires_grad]
    if not parts:
        raise LossError(
            "neither the loss nor any site that it depends on has a parameter with "
            "requires_grad=True; was the model run under torch.no_grad()?"
        )
    total = torch.stack([part.to(parts[0].dtype) for part in parts]).sum()
    torch.autograd.backward(total, retain_graph=retain_graph, inputs=inputs)
    if not retain_graph:
        settle(problem.trace)


def settle(trace: Trace) -> None:
    """Mark the gradient of a recording as taken: its values are constants from now on."""
    trace.universe.state = "settled"
    trace.universe.owner = None


def backward_of_costs(
    trace: Trace,
    *,
    baseline: Baseline | None = None,
    estimator: Estimator = by_element,
    retain_graph: bool = False,
    inputs: Sequence[Tensor] | None = None,
) -> None:
    """Accumulate an estimate of the gradient of the expected sum of a trace's declared costs."""
    if trace.universe.state == "settled":
        raise SettledError
    costs = [node for node in trace.values() if node.type == "cost"]
    if not costs:
        raise LossError("the recording declares no cost: use an.cost(name, value), or an.backward")
    terms: list[Term] = []
    for node in costs:
        found, constant = terms_of(node.value, torch.ones_like(untrack(node.value)))
        if constant:
            found = [*found, _remainder(found, untrack(node.value).sum())]
        # What Python branched on before the declaration counts, what it did later does not.
        control = node.inflow
        terms.extend(_declared(term, control) for term in found)
    loss = torch.stack([untrack(node.value).sum() for node in costs]).sum()
    _descend(_assemble(_outermost(trace), terms, loss), baseline, estimator, retain_graph, inputs)


install_backward(backward_of_costs)


def _declared(term: Term, declared: Provenance | None) -> Term:
    """Give a term the sources that its declaration has and itself has not."""
    if declared is None:
        return term
    shape = tuple(term.value.shape)
    extra = declared.bits & ~(0 if term.provenance is None else term.provenance.bits)
    if not extra:
        return term
    lost = declared.universe.intern(shape, {(LOST,) * len(shape): extra})
    found = lost if term.provenance is None else term.provenance.union(lost)
    return Term(term.value, term.leaf, term.weight, found)


def _outermost(trace: Trace) -> Trace:
    owner = trace.universe.owner
    return owner if isinstance(owner, Trace) else trace


def _problem(loss: Tensor, gradient: Tensor | None) -> _Problem:
    """Check a loss and take it apart."""
    if not isinstance(loss, Tensor):
        raise LossError(f"the loss is a {type(loss).__name__}; expected a torch.Tensor")
    found = provenance(loss)
    if found is None:
        raise LossError(
            "the loss carries no provenance: it depends on no draw of a recording; draw and "
            "compute it within `with an.record():`, or call loss.backward()"
        )
    size = tuple(untrack(loss).shape)
    if gradient is None and untrack(loss).numel() != 1:
        raise LossError(
            f"the loss has shape {list(size)}; expected a scalar: sum or average it, or pass "
            "gradient= as to torch.Tensor.backward"
        )
    if gradient is not None and tuple(gradient.shape) != size:
        raise LossError(f"gradient has shape {list(gradient.shape)}; the loss has {list(size)}")
    universe = found.universe
    if universe.state == "settled":
        raise SettledError
    if not isinstance(universe.owner, Trace):
        raise LossError("the loss depends on tracked tensors only, on no draw of a recording")
    terms, constant = terms_of(loss, gradient)
    plain = untrack(loss)
    whole = plain.sum() if gradient is None else (plain * gradient.detach()).sum()
    if constant or universe.control:
        terms = [*terms, _remainder(terms, whole)]
    if universe.control:
        terms = _controlled(terms, universe)
    return _assemble(universe.owner, terms, whole)


def _remainder(terms: list[Term], loss: Tensor) -> Term:
    """Return the part of a loss that no term explains: it depends on no source."""
    rest = loss - sum((term.live.sum() for term in terms), torch.zeros_like(loss))
    return Term(rest.detach(), rest, 1.0, None)


def _controlled(terms: list[Term], universe: Universe) -> list[Term]:
    """Make every term depend on what Python may have branched on; the remainder too."""
    found: list[Term] = []
    for term in terms:
        shape = tuple(term.value.shape)
        control = universe.intern(shape, {(LOST,) * len(shape): universe.control})
        ours = term.provenance
        found.append(
            Term(term.value, term.leaf, term.weight, ours.union(control) if ours else control)
        )
    return found


def _assemble(trace: Trace, terms: list[Term], loss: Tensor) -> _Problem:
    universe = trace.universe
    nodes = {
        node.name: node for node in trace.values() if node.type == "sample" and not node.is_observed
    }
    for source in universe.sources:
        _refuse_other(source.universe, universe)
    kept = [(i, source) for i, source in enumerate(universe.sources) if source.universe is universe]
    numbers = {index: number for number, (index, _) in enumerate(kept)}
    sites = tuple(
        Vertex(
            source.name,
            source.shape,
            restricted(nodes[source.name].inflow, numbers),
            nodes[source.name].is_score and nodes[source.name].is_learned,
        )
        for _, source in kept
    )
    shapes = tuple(
        TermShape(tuple(t.value.shape), restricted(_native(t.provenance, universe), numbers))
        for t in terms
    )
    universe.state = "used"
    # Terms of earlier recordings are constants, and would keep those recordings alive.
    ours = [t for t in terms if t.provenance is not None and t.provenance.universe is universe]
    trace.note_costs(vertices_of(ours))
    return _Problem(trace, nodes, Structure(sites, shapes), terms, loss)


def _native(found: Provenance | None, universe: Universe) -> Provenance | None:
    """Return a provenance of another universe in ours."""
    if found is None or found.universe is universe:
        return found
    return universe.adopt(found)


def _refuse_other(other: Universe | None, ours: Universe) -> None:
    """Raise if scores of another recording would be lost: those that nobody has asked for."""
    if other is None or other is ours or other.state != "open":
        return
    if isinstance(other.owner, Trace):
        for node in other.owner.values():
            if node.is_score and node.is_learned:
                raise OtherRecordingError(node)


def _box(x: Tensor) -> Tensor:
    """Return exp(x - stopped(x)) - 1: zero, with the derivatives of a likelihood ratio."""
    return torch.exp(x - x.detach()) - 1


def _product(node: Node, credit: Credit, less: Tensor | None = None) -> Tensor:
    """Return the sum over the elements of a site of score times (credit minus baseline)."""
    density = node.log_prob
    if tuple(density.shape) == node.shape:
        return (density * (credit.total if less is None else credit.total - less)).sum()
    # A density of its own shape says nothing of elements: the draw is one.
    joint = credit.joint
    return density.sum() * (joint if less is None else joint - less.mean())


def _against(boxed: Tensor, less: Tensor, node: Node) -> Tensor:
    if tuple(boxed.shape) == node.shape:
        return (boxed * less).sum()
    return boxed.sum() * less.mean()
