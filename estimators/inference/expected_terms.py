"""Expected terms: those of a bound whose sites take all their values at once.

        E_q[ log p(x, z) - log q(z) ] = Σ_z q(z) (log Σ_w p(x, z, w) - log q(z))

over the values z of the sites that the guide enumerates, and w of those that the model alone does.
Of a site that is drawn several times, each draw counts as a value of the same probability.
Each term is weighed by the probability of the values that it is of alone: of the sites that it
depends on, and those that these depend on in the guide; all others sum to one.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ancestral.estimators.elimination.eliminate import summed_out, whole
from ancestral.estimators.elimination.factors import LogFactor, factors_of, own_of, variables_of
from ancestral.estimators.elimination.guide_probs import Listed
from ancestral.estimators.elimination.log_table import Table, along
from ancestral.estimators.inference.model_guide import Pair
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.enumerated_log_prob import Spread


@dataclass(frozen=True)
class Term:
    """A term of the negative bound: its value, [], and the site and program that it came from."""

    value: Tensor
    node: Node
    program: str


def terms_of(pair: Pair) -> Iterator[Term]:
    """Yield the terms of the negative bound of a pair.

    Raises:
        EnumerationError: if the sum over what is enumerated is intractable or has no meaning.
    """
    spreads = Spread(pair.guide), Spread(pair.model)
    guide, ours = _apart(spreads[0], pair.guide_sites)
    model, theirs = _apart(spreads[1], pair.model_sites)
    yield from (Term(node.tracked_log_prob.sum(), node, "guide") for node in guide)
    if ours or theirs:
        yield from _expected(pair, ours, theirs, spreads)
    yield from (Term(-node.tracked_log_prob.sum(), node, "model") for node in model)


def _apart(spread: Spread, sites: Sequence[Node]) -> tuple[list[Node], list[Node]]:
    """Return the sites that have one density, and those that have one for each of some values."""
    apart: tuple[list[Node], list[Node]] = [], []
    for node in sites:
        apart[spread.behind(node) is not None].append(node)
    return apart


def _expected(
    pair: Pair, ours: Sequence[Node], theirs: Sequence[Node], spreads: tuple[Spread, Spread]
) -> Iterator[Term]:
    """Yield the terms of the sites that are there for each of some values, each as it is expected.

    `ours` are those of the guide, `theirs` of the model.
    """
    (guide, model), known = spreads, variables_of(ours)
    drawn = [node for node in ours if _is_drawn_often(node)]
    exact = [node for node in ours if node.is_enumerated and not _is_drawn_often(node)]
    probabilities = factors_of(pair.guide, exact, known, spread=guide)
    weights = {factor.name: factor for factor in (*probabilities, *_shares(drawn))}
    listed = Listed([weights[node.name] for node in ours if node.name in weights])
    for cost in factors_of(pair.guide, ours, known, known, guide):
        yield Term(_mean(cost, listed), pair.guide[cost.name], "guide")
    factors = factors_of(pair.model, theirs, known | variables_of(theirs), known, model)
    for cost in summed_out(factors, [factor for factor in factors if factor.own not in known]):
        yield Term(-_mean(cost, listed), pair.model[cost.name], "model")


def _is_drawn_often(node: Node) -> bool:
    """Return whether the values of a site are draws of it, each of the same weight."""
    own = own_of(node)
    return own is not None and own.is_drawn


def _shares(nodes: Iterable[Node]) -> Iterator[LogFactor]:
    """Yield the weights of draws of a site: all alike, whatever they depend on."""
    for node in nodes:
        own = own_of(node)
        assert own is not None
        log = node.unscaled_log_prob.detach().new_full((own.size,), -math.log(own.size))
        yield LogFactor(Table(log, (own,)), frozenset(), name=node.name, own=own)


def _mean(cost: LogFactor, listed: Listed) -> Tensor:
    """Return the expectation of a cost over the values of a guide's sites, as it counts: []."""
    if not cost.variables:
        return whole(cost)
    return whole(replace(cost, table=_weighed(cost, listed.joint(cost.variables))))


def _weighed(cost: LogFactor, joint: Table) -> Table:
    """Return a cost weighed by the probabilities of its sites' values, summed over these."""
    axes = tuple(dict.fromkeys((*cost.table.axes, *joint.axes)))
    weight, value = along(joint, axes).exp(), along(cost.table, axes)
    value = torch.where(weight > 0, value, 0)  # what cannot happen may cost anything
    gone = [place for place, axis in enumerate(axes) if axis in cost.variables]
    return Table((weight * value).sum(gone), tuple(a for a in axes if a not in cost.variables))
