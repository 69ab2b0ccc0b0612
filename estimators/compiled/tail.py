"""Tail of a captured loss: the nodes between its costs and itself, which is linear in them."""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import fx

from ancestral.estimators.capture.refusal import Refusal

_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    "add_": "add",
    "sub_": "sub",
    "mul_": "mul",
    "div_": "div",
}


def is_impure(node: fx.Node) -> bool:
    """Return whether a node does more than it returns: it writes into memory, or switches."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_write = name.endswith("_") and not name.endswith("__")
    is_operator = node.target in _OUT_OF_PLACE or node.target is operator.setitem
    return node.is_impure() or is_write or is_operator or "out" in node.kwargs


class Tail:
    """The nodes between the terms of a loss and the loss, which is linear in the terms.

    `others` are what they are computed of besides.
    """

    def __init__(self, module: fx.GraphModule, loss: fx.Node, terms: Sequence[fx.Node]) -> None:
        self._module, self._loss = module, loss
        self.terms = list(dict.fromkeys(terms))
        if len(self.terms) != len(terms):
            raise Refusal("two costs of the loss are one value of the graph")
        ends = frozenset(self.terms)
        nodes: set[fx.Node] = set()
        met = set[fx.Node]()
        above = descendants(self.terms)
        pending = [loss]
        while pending:
            node = pending.pop()
            if node in ends:
                met.add(node)
            elif node in above and node not in nodes:
                nodes.add(node)
                pending.extend(node.all_input_nodes)
        if met != ends:
            raise Refusal.of(
                next(iter(ends - met)), "a cost reaches the loss by a write into memory"
            )
        self.nodes = frozenset(nodes)
        self._ordered = [node for node in module.graph.nodes if node in nodes]
        self.others = list(
            dict.fromkeys(
                node
                for each in self._ordered
                for node in each.all_input_nodes
                if node not in nodes and node not in ends
            )
        )

    def as_function(self) -> fx.GraphModule:
        """Return the loss as a function of the terms and of the others, without writes."""
        graph = fx.Graph()
        copies = {node: graph.placeholder(node.name) for node in (*self.terms, *self.others)}
        for node in self._ordered:
            copy = copies[node] = graph.node_copy(node, copies.__getitem__)
            if copy.target in _OUT_OF_PLACE:
                copy.target = _OUT_OF_PLACE[copy.target]
            elif is_impure(copy):
                raise Refusal.of(node, "the loss is summed by a write into memory")
        graph.output(copies[self._loss])
        return fx.GraphModule(self._module, graph)


def descendants(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the nodes that are computed from some."""
    return _reached(nodes, lambda node: node.users)


def ancestors(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """Return the nodes that some are computed from."""
    return _reached(nodes, lambda node: node.all_input_nodes)


def _reached(
    nodes: Iterable[fx.Node], following: Callable[[fx.Node], Iterable[fx.Node]]
) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        fresh = [node for node in following(pending.pop()) if node not in found]
        found.update(fresh)
        pending += fresh
    return found
