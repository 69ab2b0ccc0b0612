"""Declared costs: the nodes of a trace that stand for a cost, and how often each element counts."""

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import untrack
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
