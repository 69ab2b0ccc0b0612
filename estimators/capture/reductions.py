"""Reductions of losses of `torch.nn.functional`, written out in a captured graph.

A recording takes ``mse_loss(x, y)`` apart into the costs that it is the mean of. Here they become
nodes, so that each can be found again.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, fx

_FUNCTIONS: frozenset[Any] = frozenset(
    getattr(F, name)
    for name in (
        "mse_loss l1_loss smooth_l1_loss huber_loss binary_cross_entropy kl_div "
        "binary_cross_entropy_with_logits poisson_nll_loss gaussian_nll_loss soft_margin_loss "
        "cross_entropy nll_loss"
    ).split()
)
_OF_CLASSES = (F.cross_entropy, F.nll_loss)
_signature = functools.cache(inspect.signature)


def write_out(graph: fx.Graph) -> None:
    """Replace each loss with a reduction by that without it, and the reduction."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _FUNCTIONS:
            _write_out(graph, node, node.target)


def _write_out(graph: fx.Graph, node: fx.Node, function: Callable[..., Any]) -> None:
    try:
        given = _signature(function).bind(*node.args, **node.kwargs).arguments
    except TypeError:
        return  # it raises where it is called
    reduction = given.get("reduction", "mean")
    legacy = any(given.get(name) is not None for name in ("size_average", "reduce"))
    has_weight = given.get("weight") is not None
    if legacy or reduction == "none" or (has_weight and function not in _OF_CLASSES):
        return
    with graph.inserting_before(node):
        each = graph.call_function(function, (), {**given, "reduction": "none"})
        total = graph.call_method("sum", (each,))
        divisor: Any = None
        if reduction == "batchmean":
            divisor = graph.call_method("size", (given["input"], 0))
        elif reduction == "mean" and function in _OF_CLASSES:
            divisor = graph.call_function(
                _counted,
                (each, given["target"], given.get("weight"), given.get("ignore_index", -100)),
            )
        elif reduction == "mean":
            divisor = graph.call_method("numel", (each,))
        made = total if divisor is None else graph.call_method("div", (total, divisor))
    for new in (each, total, made):
        new.meta["stack_trace"] = node.meta.get("stack_trace")
    node.replace_all_uses_with(made)
    graph.erase_node(node)


def _counted(each: Tensor, target: Tensor, weight: Tensor | None, ignored: int) -> Any:
    """Return what a mean over classes divides by: of those that count, how many, or the weights."""
    if target.dtype.is_floating_point:
        return each.numel()
    counted = target != ignored
    if weight is None:
        return counted.sum()
    return (weight[target.where(counted, 0)] * counted).sum()
