"""Declared costs: the nodes of a trace that stand for a cost, and how often each element counts."""

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import untrack
from ancestral.provenance.tensor.torch_internals import detach
from ancestral.trace.context.argument_checks import first_of
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.factor import Factor
from ancestral.trace.nodes.mask import over
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.trace import Trace


def total_of_costs(trace: Trace) -> Tensor | None:
    """Return the sum of the declared costs of a trace with its provenance, None if it has none."""
    costs = map(cost_of, filter(is_cost, trace.values()))
    parts = [(value * counts).sum() for value, counts in costs]
    return sum(parts[1:], parts[0]) if parts else None


def is_cost(node: Node) -> bool:
    """Return whether a node is a cost, or data that is observed, whose density is to grow."""
    return node.type == "cost" or (node.type == "sample" and node.is_observed and node.is_declared)


def cost_of(node: Node) -> tuple[Tensor, Tensor]:
    """Return the cost that a node stands for, and how often each of its elements counts."""
    if node.type == "cost":
        return node.value, _counts(node)
    density = node.tracked_log_prob
    return density, -torch.ones_like(untrack(density))


def _counts(node: Node) -> Tensor:
    """Return how often each element of a declared cost counts, of its shape."""
    plain = untrack(node.value)
    if node.scale == 1.0:
        return torch.ones_like(plain)
    exact = plain.dtype if plain.dtype.is_floating_point else torch.get_default_dtype()
    return torch.ones_like(plain, dtype=exact) * node.scale


class NonFiniteDensityError(SiteError):
    """The log-probability of a site is NaN or infinite."""


def non_finite_density(node: Node, program: str) -> NonFiniteDensityError:
    """Return the error of a site of a program: how many elements are bad, and their values."""
    density = detach(node.log_prob)
    bad = ~torch.isfinite(density)
    cases = _cases(node)
    value = cases[over(bad, tuple(cases.shape[:-1]))]
    shown = f", the first at the value {first_of(value)}" if value.numel() else ""
    return NonFiniteDensityError(
        f"site {node.name!r} ({node.location}) of the {program}: {int(bad.sum())} of "
        f"{density.numel()} elements of its log-probability are not finite, the first of them "
        f"{first_of(density[bad])}{shown}; expected finite numbers: {_advice(node)}"
    )


def _advice(node: Node) -> str:
    if isinstance(node.fn, Factor):
        return "look at how the factor is computed, or mask it"
    return (
        f"look at the parameters of {type(node.fn).__name__}, or at whether the value can come "
        "from it"
    )


def _cases(node: Node) -> Tensor:
    """Return the value with one dimension for the events: [*batch, events]."""
    assert node.fn is not None
    value = detach(node.value)
    return value.reshape(*value.shape[: value.dim() - len(node.fn.event_shape)], -1)
