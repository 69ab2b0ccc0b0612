"""Scores left out: what torch's own gradient of a loss does not have, as a recording knows.

The gradient with respect to some tensors lacks the score function of a site upstream of the loss if
those reach the parameters of the site.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.held_scores import HeldScores
from ancestral.estimators.terms import unchecked
from ancestral.provenance.algebra import Provenance, Source
from ancestral.provenance.rules import tensors_in
from ancestral.provenance.torch_internals import DisableTorchFunction
from ancestral.trace.autograd import nodes_of
from ancestral.trace.node import Node
from ancestral.trace.parameters import parameters
from ancestral.trace.trace import Trace


def left_out(loss: Tensor, found: Provenance, inputs: Any, gradient: Any) -> list[str]:
    """Return the names of the sites whose scores the gradient of a loss lacks.

    Args:
        loss: the loss. A score that it holds already is not left out, and not missed by a
            straight-through estimator, whose bias is meant.
        found: what it depends on; if its recording is forgotten, all these sites may be left out.
        inputs: what it is differentiated by, in any nesting, None for all leaves.
        gradient: what each element of it counts, in any nesting.
    """
    universe = found.universe
    trace = universe.owner
    if not isinstance(trace, Trace):
        return [repr(source.name) for source in found.sources]
    upstream = _upstream(trace, found.members)
    kinked = universe.kinked(upstream)
    needed = [
        node
        for node in trace.everything
        if node.source in upstream and node.is_learned and (node.is_score or node.source in kinked)
    ]
    if inputs is not None and needed:
        met = _Inputs(list(tensors_in(inputs)))
        needed = [node for node in needed if met.reach(node)]
    needed = [node for node in needed if node.name not in trace.straight_through]
    held = HeldScores(universe, needed, unchecked(loss), gradient).found if needed else []
    return [repr(node.name) for node in needed if node not in held]


def _upstream(trace: Trace, members: Iterable[Source]) -> set[Source]:
    """Return sources with all those that reach them, through the draws between."""
    nodes = {node.source: node for node in trace.everything}
    seen = set[Source]()
    pending = list(members)
    while pending:
        fresh = trace.universe.closure(pending) - seen
        seen |= fresh
        inflows = (nodes[source].inflow for source in fresh if source in nodes)
        pending = [source for inflow in inflows if inflow is not None for source in inflow.members]
    return seen


class _Inputs:
    """The tensors by which a loss is differentiated."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self._nodes = {_node(tensor) for tensor in tensors}
        # `torch.autograd.functional` differentiates by copies on the same memory.
        self._addresses = {_address(tensor) for tensor in tensors}

    def reach(self, node: Node) -> bool:
        """Return whether any of them reaches the parameters of a site."""
        if node.fn is None:
            return False
        held = [tensor for tensor, _ in parameters(node.fn) if tensor.requires_grad]
        if any(_address(tensor) in self._addresses for tensor in held):
            return True
        for each in nodes_of(held):
            leaf = getattr(each, "variable", None)
            if each in self._nodes or (leaf is not None and _address(leaf) in self._addresses):
                return True
        return False


def _node(tensor: Tensor) -> Any:
    with DisableTorchFunction():
        edge = torch.autograd.graph.get_gradient_edge
        return edge(tensor).node if tensor.requires_grad else None


def _address(tensor: Tensor) -> int:
    with DisableTorchFunction():
        return tensor.data_ptr() if tensor.layout is torch.strided else id(tensor)
