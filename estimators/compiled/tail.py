"""Tail of a captured loss: the nodes between its costs and itself, which is linear in them."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from ancestral.estimators.capture.refusal import Refusal
from ancestral.provenance.tensor.tensor import raw

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
    return node.is_impure() or is_write(node)


def is_write(node: fx.Node) -> bool:
    """Return whether a node writes into memory that it is given."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_named = name.endswith("_") and not name.endswith("__")
    is_operator = node.target in _OUT_OF_PLACE or node.target is operator.setitem
    is_call = node.op in ("call_function", "call_method")
    return is_call and (is_named or is_operator or "out" in node.kwargs)


class Tail:
    """The nodes between the terms of a loss and the loss, which is linear in the terms.

    `others` are what they are computed of besides.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        loss: fx.Node,
        terms: Sequence[fx.Node],
        values: Mapping[fx.Node, Any],
    ) -> None:
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

        self._refuse_stale(values)

    def _refuse_stale(self, values: Mapping[fx.Node, Any]) -> None:
        """Refuse parts of the loss that are written into after they are read.

        The self-check need not see these: a cost that counts too much may be zero in its draws.
        """
        writes = [n for n in self._module.graph.nodes if is_write(n) and n.all_input_nodes]
        written = [
            (n, memory_of(values[n.kwargs.get("out") or n.all_input_nodes[0]])) for n in writes
        ]
        for node in (*self._ordered, *self.terms, *self.others):
            at = memory_of(values[node])
            after = [write for write, where in written if at and where == at]
            if any(self._is_stale(node, write) for write in after):
                raise Refusal.of(after[-1], "a part of the loss is written into after it is read")

    def _is_stale(self, node: fx.Node, write: fx.Node) -> bool:
        users = [user for user in node.users if user in self.nodes]
        if node in self.nodes:  # which counts as it was when it was made
            return node < write and (node is self._loss or max(users) > write)
        if node in self.others:  # and these as they are at the end; what is added has no weight
            users = [user for user in users if not _is_added_to(user, node)]
            return bool(users) and write >= min(users)
        return write in self.nodes

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


def _is_added_to(write: fx.Node, node: fx.Node) -> bool:
    is_sum = write.target in (operator.iadd, operator.isub, "add_", "sub_")
    return is_sum and write.args[0] is node and node not in write.args[1:]


def memory_of(value: Any) -> int:
    """Return what tells the memory of a tensor from others, 0 for what is none."""
    return raw(Tensor.untyped_storage, value)._cdata if isinstance(value, Tensor) else 0


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
