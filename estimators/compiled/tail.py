"""Tail of a captured loss: the nodes between its costs and itself, which is linear in them."""

import operator
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, fx

from ancestral.estimators.capture.refusal import Refusal
from ancestral.provenance.tensor.linear_form import version_of
from ancestral.provenance.tensor.tensor import raw
from ancestral.provenance.tensor.torch_internals import tree_leaves

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
_WRITTEN = "ancestral.written"


def is_impure(node: fx.Node) -> bool:
    """Return whether a node does more than it returns: it writes into memory, or switches."""
    return node.is_impure() or is_write(node)


def is_write(node: fx.Node) -> bool:
    """Return whether a node writes into memory that it is given, by what it did or by its name."""
    if node.meta.get(_WRITTEN):
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    is_named = name.endswith("_") and not name.endswith("__")
    is_operator = node.target in _OUT_OF_PLACE or node.target is operator.setitem
    is_call = node.op in ("call_function", "call_method")
    return is_call and (is_named or is_operator or "out" in node.kwargs)


@contextmanager
def writes_noted(node: fx.Node, values: Mapping[fx.Node, Any]) -> Generator[None]:
    """Note what a node that runs within the block writes into, as `relu(x, inplace=True)` does."""
    before = _versions(node, values)
    yield
    after = _versions(node, values)
    node.meta[_WRITTEN] = [each for each, count in before.items() if after[each] != count]


def _versions(node: fx.Node, values: Mapping[fx.Node, Any]) -> dict[fx.Node, list[int]]:
    """Return how often what a node is given was written into."""
    given = {each: tree_leaves(values[each]) for each in node.all_input_nodes}
    return {
        each: [raw(version_of, part) for part in parts if isinstance(part, Tensor)]
        for each, parts in given.items()
    }


def written_by(node: fx.Node) -> Sequence[fx.Node]:
    """Return what a write goes into."""
    noted: list[fx.Node] = node.meta.get(_WRITTEN, [])
    return noted or [node.kwargs.get("out") or node.all_input_nodes[0]]  # type: ignore[list-item]


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
        written = [(n, memory_of(values[each])) for n in writes for each in written_by(n)]
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
            copies[node] = _without_write(graph, node, copies)
        graph.output(copies[self._loss])
        return fx.GraphModule(self._module, graph)

    def copied(self, instead: Mapping[fx.Node, fx.Node]) -> fx.Node:
        """Return the loss of other nodes instead of some terms; a term may be part of another."""
        graph, copies = self._module.graph, dict(instead)
        for node in self._ordered:
            with graph.inserting_before(node):
                copies[node] = _without_write(graph, node, copies)
        return copies[self._loss]


def _without_write(graph: fx.Graph, node: fx.Node, copies: Mapping[fx.Node, fx.Node]) -> fx.Node:
    copy = graph.node_copy(node, lambda each: copies.get(each, each))
    if copy.target in _OUT_OF_PLACE:
        copy.target = _OUT_OF_PLACE[copy.target]
        copy.meta.pop(_WRITTEN, None)
    elif is_impure(copy):
        raise Refusal.of(node, "the loss is summed by a write into memory")
    return copy


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
