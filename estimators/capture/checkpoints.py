"""Checkpoints of a captured graph: parts whose values are computed again in the backward pass.

Each is a graph within the graph. One that draws, or that returns a number, is written out in its
place, so that its draws and its costs are nodes like others; the rest stay what they are.
"""

from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from ancestral.estimators.capture.markers import MARKERS
from ancestral.provenance.tensor.torch_internals import tree_leaves

_CHECKPOINT: Any = torch.ops.higher_order.tag_activation_checkpoint


def write_out_checkpoints(module: fx.GraphModule, draws: Collection[Any]) -> None:
    """Put what is within a checkpoint that draws, or returns a number, in the place of it.

    Args:
        module: the graph, which is changed.
        draws: what draws: the functions of torch, and the names of methods.
    """
    for node in list(module.graph.nodes):
        if node.target is _CHECKPOINT:
            name = str(node.args[0].target)
            inner: fx.GraphModule = getattr(module, name)
            write_out_checkpoints(inner, draws)
            if _has_draw(inner, draws) or _returns_number(inner):
                _write_out(module.graph, node, inner, name)


def _has_draw(inner: fx.GraphModule, draws: Collection[Any]) -> bool:
    return any(node.target in MARKERS or node.target in draws for node in inner.graph.nodes)


def _returns_number(inner: fx.GraphModule) -> bool:
    (output,) = (node for node in inner.graph.nodes if node.op == "output")
    values = tree_leaves([node.meta.get("example_value") for node in output.all_input_nodes])
    return any(isinstance(each, torch.Tensor) and each.dim() == 0 for each in values)


def _write_out(graph: fx.Graph, node: fx.Node, inner: fx.GraphModule, name: str) -> None:
    placeholders = [each for each in inner.graph.nodes if each.op == "placeholder"]
    copies: dict[fx.Node, Any] = dict(zip(placeholders, node.args[1:], strict=True))
    returned: Any = ()
    with graph.inserting_before(node):
        for each in inner.graph.nodes:
            if each.op == "output":
                (returned,) = fx.node.map_arg(each.args, copies.__getitem__)
            elif each.op != "placeholder":
                copies[each] = graph.node_copy(each, copies.__getitem__)
                if each.op == "get_attr":
                    copies[each].target = f"{name}.{each.target}"
    for user in list(node.users):  # takes one of them
        user.replace_all_uses_with(returned[user.args[1]])
        graph.erase_node(user)
    graph.erase_node(node)
