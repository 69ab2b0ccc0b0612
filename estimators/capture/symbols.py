"""Symbols: the sizes of a captured graph that stand for any, as the compiler guards them.

The compiler has for each value of the graph a tensor without data, whose sizes are symbols. What
is traced on those serves every size that the guards let in, and what it asks of a size becomes a
guard.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from ancestral.estimators.capture.refusal import Refusal
from ancestral.provenance.tensor.torch_internals import fake_mode_of, read_from_values, tree_leaves

_KEY = "example_value"
SYMBOLS = (torch.SymInt, torch.SymFloat)
"""The types of numbers of a graph that stand for any."""


class Symbols:
    """The values of a captured graph as tensors without data, and the mode that they are of."""

    def __init__(self, module: fx.GraphModule) -> None:
        """Take what the compiler has noted, and what follows for the nodes that were added.

        Raises:
            Refusal: if the compiler has noted nothing.
        """
        known = [n.meta[_KEY] for n in module.graph.nodes if n.op == "placeholder"]
        self.mode: Any = fake_mode_of(known)
        if self.mode is None:
            raise Refusal("the compiler has not noted the sizes of the graph")
        self.values: dict[fx.Node, Any] = {}
        with self.mode, torch.enable_grad():
            for node in module.graph.nodes:
                if _KEY in node.meta:
                    self.values[node] = node.meta[_KEY]
                elif node.op in ("call_function", "call_method"):
                    self.values[node] = self._computed(node)

    def shape(self, node: fx.Node) -> Any:
        """Return the shape of a value."""
        return tuple(self.values[node].shape)

    def of(self, tensor: Tensor) -> Any:
        """Return a tensor that is no value of the graph as one without data."""
        return self.mode.from_tensor(tensor, static_shapes=True)

    def _computed(self, node: fx.Node) -> Any:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs)  # type: ignore[operator]


def has_size_of_values(node: fx.Node) -> bool:
    """Return whether a value has a size, or is a number, that the compiler has read from values."""
    given = (read_from_values(tree_leaves(n.meta.get(_KEY))) for n in node.all_input_nodes)
    return bool(read_from_values(tree_leaves(node.meta.get(_KEY))).difference(*given))


def concrete(inputs: Sequence[Any]) -> list[Any]:
    """Return what a graph was captured with, its symbols as the numbers that they stood for."""
    return [each.node.hint if isinstance(each, torch.SymInt) else each for each in inputs]


def is_symbolic(inputs: Sequence[Any]) -> bool:
    """Return whether a graph is given sizes that stand for any."""
    return any(isinstance(each, torch.SymInt) for each in inputs)


def tensors_of(inputs: Sequence[Any]) -> list[Tensor]:
    """Return the tensors that a graph is given."""
    return [each for each in inputs if isinstance(each, Tensor)]
