"""Paths: less noise in the gradient that goes along the values of reparameterized sites.

        c_k = ∂f / ∂ log w_k,   c'_k = ∂c_k / ∂ log w_k

The gradient of a bound holds the score of each draw, - c_k ∇ log q(z_k) at fixed z_k. For K = 1 it
has mean zero, and is left out: Roeder, Wu and Duvenaud (2017), "Sticking the landing", section 3.
For more, it has not, since c_k depends on z_k, but can be reparameterized itself:

        E[ c_k ∇ log q(z_k) ] = E[ (c'_k ∂ log w_k / ∂z_k + c_k Σ_i ∂ log q(z_ki) / ∂z_k) ∇z_k ]

over the sites i below that are scored. For the importance-weighted bound c'_k = c_k (1 - c_k), so
that c_k² is left of the weight of the path: Tucker, Lawson, Gu and Maddison (2019), "Doubly
reparameterized gradient estimators for Monte Carlo objectives", equations 5 and 8.
"""

import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from ancestral.estimators.credit.credit import Credit, by_element
from ancestral.estimators.gradient.problem import Problem
from ancestral.estimators.gradient.score_function import product
from ancestral.estimators.inference.importance import WeightError
from ancestral.estimators.inference.model_guide import GuideError
from ancestral.estimators.pathwise.first_order import first_order
from ancestral.estimators.pathwise.routes import edges_of_gates, sent_to
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.place import stacklevel
from ancestral.trace.graph.structure import Structure
from ancestral.trace.nodes.node import Node

Pathwise = Literal["auto", "dreg", "stl", "plain"]
"""Which gradient goes along paths; "auto" is "dreg" where the guide draws all that has one."""


class BiasedGradientWarning(UserWarning):
    """A gradient that was asked for is not that of its objective."""


def check_pathwise(pathwise: object) -> None:
    """Raise a ValueError unless a choice is one."""
    if pathwise not in ("auto", "dreg", "stl", "plain"):
        raise ValueError(
            f"pathwise must be 'auto', 'dreg', 'stl' or 'plain', not {short(pathwise)}"
        )


def correction(
    problem: Problem,
    names: Collection[str],
    log_w: Tensor,
    slope: Tensor,
    bend: Tensor,
    pathwise: Pathwise,
    is_single: bool,
) -> Tensor:
    """Return zero, with what is to be added to the gradient of a surrogate.

    Its mean is zero, but for "stl" of more than one draw.

    Args:
        problem: the bound of some draws taken apart, with each site decided.
        names: the draws whose log-probability is to be left out.
        log_w: the log-weights of the draws, with their history, [draws, *examples].
        slope: the weight of each log-weight in the surrogate, c_k, [draws, *examples].
        bend: its derivative, c'_k, [draws, *examples].
        pathwise: which gradient is to go along the paths.
        is_single: whether the bound is of one draw.

    Raises:
        GuideError: if "dreg" or "stl" is asked for and not to be had.
    """
    own, foreign = own_and_foreign(problem, names)
    if pathwise in ("dreg", "stl") and foreign:
        _refuse(foreign[0], pathwise)
    if pathwise == "plain" or foreign or not own:
        return torch.zeros(())
    if pathwise == "stl" and not is_single:
        _warn_of_bias(own[0])
    scored = [] if pathwise == "stl" else [n for n in problem.nodes.values() if n in problem.scored]
    weights = _weights(problem, {node.name for node in (*own, *scored)}, slope)
    left_out = _density(own, weights)
    along = left_out + _density(scored, weights)
    if pathwise != "stl":
        along = along + (bend * log_w).sum()
    total = first_order(left_out - paths_of(along, own), _ADVICE)
    return total - total.detach()


def paths_of(total: Tensor, draws: Sequence[Node]) -> Tensor:
    """Return zero, with the gradient that a scalar has along the values of some draws only."""
    edges = edges_of_gates(draws)
    slopes = sent_to(total, edges, edges)
    parts = [
        (slopes[node.gate].detach() * (node.value - node.value.detach())).sum()
        for node in draws
        if node.gate is not None and node.gate in slopes
    ]
    return sum(parts[1:], parts[0]) if parts else torch.zeros(())


def own_and_foreign(problem: Problem, names: Collection[str]) -> tuple[list[Node], list[Node]]:
    """Return the draws of these names that have a path, and the other draws that have one."""
    found: tuple[list[Node], list[Node]] = [], []
    for node in problem.upstream:
        if node.gate is not None and node not in problem.scored:
            is_own = node.name in names and not node.has_moving_boundary
            found[not is_own].append(node)
    return found


def apart(problem: Problem, log_w: Tensor) -> frozenset[str]:
    """Return the draws of which each element reaches the log-weights of one row only."""
    rows = torch.arange(len(log_w), dtype=torch.float64, device=log_w.device)
    wide = rows.reshape(-1, *(1,) * (log_w.ndim - 1)).expand(log_w.shape)
    names = {site.name for site in problem.structure.sites}
    counts, sums, squares = (_weights(problem, names, wide**power) for power in range(3))
    # Numbers of rows are alike where their variance is zero: exactly, for they are whole.
    return frozenset(
        name
        for name in counts
        if torch.equal(counts[name].total * squares[name].total, sums[name].total ** 2)
    )


def refuse_shared(problem: Problem, names: Collection[str]) -> None:
    """Raise if a draw that is scored is none of those that are apart.

    Raises:
        WeightError: at the first that reaches log-weights of several rows.
    """
    for node in problem.upstream:
        if node in problem.scored and node.name not in names:
            raise WeightError(
                f"site {node.name!r} ({node.location}) reaches several of the log-weights along "
                "the first dimension, or is not known to reach only one; expected each row to be "
                "of its own draws: draw with the K as a dimension, q.sample((K,)), and keep it "
                "apart in what follows; trace.explain() names what mixes it"
            )


def _weights(problem: Problem, names: Collection[str], slope: Tensor) -> dict[str, Credit]:
    """Return for each element of some sites the weights of the log-weights that it reaches."""
    sites = [replace(s, needs_score=s.name in names) for s in problem.structure.sites]
    (term,) = problem.structure.terms
    assert term.shape == tuple(slope.shape)
    found = by_element(Structure(tuple(sites), (term,)), [slope])
    return {credit.name: credit for credit in found}


def _density(nodes: Sequence[Node], weights: dict[str, Credit]) -> Tensor:
    """Return the sum of the log-densities of draws, as they were drawn, weighted."""
    known = [(node, weights[node.name]) for node in nodes if node.name in weights]
    parts = [product(node, each, density=node.elementwise_log_prob) for node, each in known]
    return sum(parts, torch.zeros(()))


_ADVICE = (
    "a doubly reparameterized gradient is one of first order, and a higher derivative of its "
    "surrogate was asked for; pass pathwise='plain', whose derivatives are all right"
)


def _refuse(node: Node, pathwise: str) -> None:
    if node.has_moving_boundary:
        why = "has ends of its support that are learned, so that its score is not all"
    else:
        why = "is no site of the guide, so that no log-probability of it is to be left out"
    raise GuideError(
        f"site {node.name!r} ({node.location}) {why}; expected the guide to draw, by an.sample, "
        f"all that is reparameterized, for pathwise={pathwise!r}; leave pathwise='auto', which "
        "has the plain gradient here"
    )


def _warn_of_bias(node: Node) -> None:
    warnings.warn(
        BiasedGradientWarning(
            f"pathwise='stl' leaves the score of site {node.name!r} ({node.location}) out, whose "
            "mean is zero for one draw, but not for a bound of several: the gradient is biased; "
            "use pathwise='dreg', which is not"
        ),
        stacklevel=stacklevel(),
    )
