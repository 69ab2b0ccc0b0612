"""Mean field: the evidence lower bound with the divergences of its pairs in closed form.

        ELBO = E_q[ Σ log p(x | z) - Σ_i KL(q(z_i | ·) || p(z_i | ·)) ]

A divergence takes the place of log q(z_i) - log p(z_i) where neither distribution depends on z_i
itself, or on what is drawn below it in the guide; elsewhere it would be another function.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> def model():
...     sample("z", Normal(0.0, 1.0))
>>> def guide():
...     sample("z", Normal(1.0, 1.0))
>>> mean_field(model, guide).value  # no draw is left in it
tensor(-0.5000)
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.distributions import kl_divergence

from ancestral.estimators.credit.credit import Estimator, by_element
from ancestral.estimators.credit.site_choices import PerSite
from ancestral.estimators.gradient.estimator_choice import Choice
from ancestral.estimators.gradient.subtraction import Baselines
from ancestral.estimators.inference.elbo import Elbo, estimated, summed
from ancestral.estimators.inference.expected_terms import Term, terms_of
from ancestral.estimators.inference.model_guide import Pair, Program, refuse_mismatch
from ancestral.provenance.algebra.provenance import Provenance, Source, union
from ancestral.provenance.tensor.tensor import alias, attach, raw
from ancestral.trace.context.compile import eagerly
from ancestral.trace.nodes.distribution_params import factorized, is_of_torch
from ancestral.trace.nodes.node import Node


@eagerly
def mean_field(
    model: Program,
    guide: Program,
    *args: Any,
    particles: int = 1,
    vectorized: bool = False,
    max_plate_nesting: int | None = None,
    baseline: Baselines = "auto",
    estimator: PerSite[Choice] = "auto",
    credit: PerSite[Estimator] = by_element,
    **kwargs: Any,
) -> Elbo:
    """Return the evidence lower bound with analytic divergences, and what to minimize.

        ELBO = 1/K Σ_k [ Σ log p(x | z_k) - Σ_i KL(q(z_i | z_k) || p(z_i | z_k)) ],   z_k ~ q

    A pair of sites has its divergence where torch knows it (`torch.distributions.kl_divergence`),
    both count alike, and what their parameters depend on is not below the site in the guide; else
    it has its log-probabilities, as in `ancestral.infer.elbo`. Value and gradient are unbiased
    for the same bound. Kingma and Welling (2014), "Auto-encoding variational Bayes", equation 7.

    The arguments, and what is raised, are those of `ancestral.infer.elbo`.
    """
    draws = (particles, vectorized, max_plate_nesting)
    choices = (estimator, credit, baseline)
    return estimated("mean_field", _loss, (model, guide), args, kwargs, draws, choices)


def _loss(pair: Pair) -> Tensor:
    refuse_mismatch(pair)
    known = {term.node.name: term for term in _divergences(pair)}
    rest = [term for term in terms_of(pair) if term.node.name not in known]
    return summed((*known.values(), *rest))


def _divergences(pair: Pair) -> Iterator[Term]:
    parents = {n.source: n for t in (pair.guide, pair.model) for n in t.everything if n.is_drawn}
    for ours, theirs in pair.shared:
        found = _divergence(ours, theirs) if _is_above(ours, theirs, parents) else None
        if found is not None:
            yield Term(found.sum(), theirs, "guide")


def _divergence(ours: Node, theirs: Node) -> Tensor | None:
    """Return KL(q || p) of each element, [*shape], as it counts; None where it is not known."""
    fns = (theirs.fn, ours.fn)
    is_plain = all(fn is not None and is_of_torch(fn) for fn in fns)
    masks, scales = (ours.mask, theirs.mask), (ours.scale, theirs.scale)
    if not is_plain or masks != (None, None) or any(isinstance(s, Tensor) for s in scales):
        return None
    if ours.scale != theirs.scale or ours.shape != theirs.shape or ours.enumeration is not None:
        return None
    assert theirs.fn is not None
    assert ours.fn is not None
    try:
        value: Tensor = raw(kl_divergence, factorized(theirs.fn), factorized(ours.fn))
    except NotImplementedError:  # no closed form is registered: the log-probabilities stand for it
        return None
    if tuple(value.shape) != theirs.shape:
        return None
    sources = [p for p in (ours.param_provenance, theirs.param_provenance) if p is not None]
    value = value * theirs.scale
    return attach(alias(value), union(sources)) if sources else value


def _is_above(ours: Node, theirs: Node, drawn: dict[Source, Node]) -> bool:
    """Return whether no parameter of a pair depends on the value of the site."""
    pending: list[Provenance | None] = [ours.param_provenance, theirs.param_provenance]
    seen: set[Source] = set()
    while pending:
        found = pending.pop()
        if found is None:
            continue
        fresh = found.universe.closure(found.members) - seen
        seen |= fresh
        pending += [drawn[source].param_provenance for source in fresh if source in drawn]
    return theirs.source not in seen
