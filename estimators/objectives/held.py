"""Held draws: objectives whose draws are held fixed, so that densities alone are differentiated.

        ∇ = Σ_n Σ_k ( a_kn ∇ log p(x_n, z_kn) + b_kn ∇ log q(z_kn) )

with weights a and b that are no functions of what is learned.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ancestral.estimators.inference.bound_value import bound_value
from ancestral.estimators.objectives.bound import Bound
from ancestral.estimators.objectives.log_weights import Draws, Weighted, released
from ancestral.estimators.pathwise.routes import keep
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.trace import Trace

Weights = Callable[[Tensor], Tensor]
"""Takes log-weights, [K, *examples], and returns what each draw counts, of that shape."""


@dataclass(frozen=True)
class Held:
    """What is to be made large with the draws held fixed, of log-weights [K, *examples].

    `value` returns what is reported, [*examples]; the others what each log-density counts.
    """

    value: Weights
    of_model: Weights | None = None
    of_guide: Weights | None = None
    is_maximized: bool = True


def held_bound(draws: Draws, objective: Held) -> Bound:
    """Return an objective of draws that are held fixed, and what to minimize."""
    runs = draws.made()
    for run in runs:
        hold(run.trace, (*run.pair.all_of_model, *run.pair.guide_sites))
    log_weights = torch.cat([untrack(run.log_w).detach() for run in runs])
    value = objective.value(log_weights).sum() * runs[0].scale
    constant = untrack(runs[0].constant)
    if objective.is_maximized:
        value = value + constant.detach()
    total = sum(
        (
            *_parts(runs, objective.of_model, log_weights, _model_density),
            *_parts(runs, objective.of_guide, log_weights, lambda run: run.log_q),
            *([] if objective.of_model is None else [constant]),
        ),
        torch.zeros(()),
    )
    worth = -value if objective.is_maximized else value
    found = released(runs, value, total.detach() - total + worth, log_weights)
    return Bound(bound_value(found[0]), *found[1:])


def _parts(
    runs: Sequence[Weighted],
    weights: Weights | None,
    log_weights: Tensor,
    density: Callable[[Weighted], Tensor],
) -> list[Tensor]:
    """Return the weighted log-densities of one program, [] for each run."""
    if weights is None:
        return []
    counts, at, found = weights(log_weights).detach(), 0, list[Tensor]()
    for run in runs:
        live = untrack(density(run))
        found.append((live * counts[at : at + len(live)]).sum() * run.scale)
        at += len(live)
    return found


def _model_density(run: Weighted) -> Tensor:
    """Return the log-density of all that the model draws or observes, by example.

    What it draws from its prior does not count in a log-weight, but is learned.
    """
    counted = {node.name for node in run.pair.model_sites}
    own = [node for node in run.pair.all_of_model if node.name not in counted]
    return run.log_p + run.total(own) if own else run.log_p


def hold(trace: Trace, counted: Sequence[Node]) -> None:
    """Shut the paths along the values of all draws of a recording.

    Raises:
        SiteError: if a draw does not count whose distribution is learned.
    """
    names = {node.name for node in counted}
    for node in trace.everything:
        if node.is_drawn and node.is_learned and node.name not in names:
            raise _unnamed(node)
    gated = [node for node in trace.everything if node.gate is not None]
    keep(gated, gated)


def _unnamed(node: Node) -> SiteError:
    return SiteError(
        f"site {node.name!r} ({node.location}) is drawn by torch alone, from a distribution that "
        "is learned; expected an.sample, by the name of a site of model and guide: this objective "
        "differentiates the log-probability of all that is drawn"
    )
