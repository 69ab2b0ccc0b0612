"""Losses as they are given: scalars, and dictionaries, lists and tuples of them.

>>> import torch
>>> float(total_of({"nll": torch.tensor(1.0), "kl": {"a": torch.tensor(2.0)}})[0])
3.0
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ancestral.provenance.algebra.provenance import Universe
from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.nodes.autograd_graph import nodes_of
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.nodes.node import Node
from ancestral.trace.recording.trace import Trace

Loss = Tensor | Mapping[Any, "Loss"] | list["Loss"] | tuple["Loss", ...]
"""A loss, or any nesting of losses by name or by number."""


class LossError(ValueError):
    """A loss of which no gradient can be taken."""

    @classmethod
    def of_kind(cls, path: str, found: object) -> "LossError":
        """Say what was given in place of a tensor, and what was meant."""
        return cls(f"{path} is {kind_of(found)}; expected a torch.Tensor{_advice(found)}")


def _advice(found: object) -> str:
    if isinstance(found, Trace):
        return ": call trace.backward() for the costs that it declares, or give the loss"
    if isinstance(found, Node):
        return f": give the loss; the value of this node is trace[{found.name!r}].value"
    if isinstance(getattr(found, "surrogate", None), Tensor):
        return ": call .surrogate.backward() on it, which torch alone differentiates"
    if isinstance(found, nn.Module) or callable(found):
        return ": call it within a recording, and give what it returns"
    if isinstance(found, str):
        return f": the node of a declared cost is trace[{short(found)}]"
    if isinstance(found, (int, float)):
        return (
            ": give the tensor itself, before .item() or float() made a number of it; make a "
            f"number that Python chose a tensor after the choice: torch.tensor({found})"
        )
    return ""


def total_of(loss: Any, gradient: Any = None) -> tuple[Tensor, Tensor | None]:
    """Return the sum of nested losses, and what its elements count; a tensor is its own sum.

    Args:
        loss: tensors in any nesting; scalars, unless `gradient` is given.
        gradient: what each element counts, in the same nesting.

    Raises:
        LossError: if a leaf is no tensor or no scalar, if the two nestings differ, or if there is
            no leaf.
    """
    if isinstance(loss, Tensor):
        return loss, gradient
    if isinstance(loss, Trace) or not _is_nested(loss):
        raise LossError.of_kind("the loss", loss)
    total: Tensor | None = None
    for path, leaf, weight in _leaves("loss", loss, gradient):
        if not isinstance(leaf, Tensor):
            raise LossError.of_kind(path, leaf)
        part = _weighed(path, leaf, weight)
        total = part if total is None else total + part
    if total is None:
        raise LossError("the loss has no tensor in it; expected one at least")
    return total, None


def _is_nested(value: object) -> bool:
    return isinstance(value, (Mapping, list, tuple))


def _leaves(path: str, loss: Any, gradient: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the leaves, each with the path of keys to it and its own weight."""
    if not _is_nested(loss):
        yield path, loss, gradient
        return
    items = list(loss.items() if isinstance(loss, Mapping) else enumerate(loss))
    if gradient is not None:
        _check_nesting(path, loss, gradient)
    for key, value in items:
        yield from _leaves(f"{path}[{key!r}]", value, None if gradient is None else gradient[key])


def _check_nesting(path: str, loss: Any, gradient: Any) -> None:
    is_named = isinstance(loss, Mapping)
    same = _is_nested(gradient) and isinstance(gradient, Mapping) is is_named
    if not same or (set(loss) != set(gradient) if is_named else len(loss) != len(gradient)):
        raise LossError(f"gradient does not have the nesting of the loss at {path}")


def _weighed(path: str, leaf: Tensor, weight: Tensor | None) -> Tensor:
    shape = list(untrack(leaf).shape)
    if weight is not None:
        if not isinstance(weight, Tensor) or list(weight.shape) != shape:
            raise LossError(f"the gradient of {path} must be a tensor of its shape, {shape}")
        return (leaf * weight.detach()).sum()
    if untrack(leaf).numel() != 1:
        raise LossError(
            f"{path} has shape {shape}; expected a scalar: sum or average it, or pass gradient= "
            "of the same nesting"
        )
    return leaf.sum() if shape else leaf


def check_shapes(loss: Tensor, gradient: Tensor | None) -> None:
    """Raise a `LossError` unless a loss is a scalar, or what it counts is of its shape."""
    size = tuple(loss.shape)
    if loss.is_complex():
        raise LossError(f"the loss is of {loss.dtype}; expected real numbers, such as its .real")
    if gradient is None and loss.numel() != 1:
        raise LossError(
            f"the loss has shape {list(size)}; expected a scalar: sum or average it, or pass "
            "gradient= as to torch.Tensor.backward"
        )
    if gradient is not None and tuple(gradient.shape) != size:
        raise LossError(f"gradient has shape {list(gradient.shape)}; the loss has {list(size)}")


SURROGATE = "ancestral.surrogate"
"""Where a node of autograd says in its metadata which surrogate of what recording it belongs to."""


class ScoredLossError(ValueError):
    """A loss holds a surrogate of the same recording, or the graph of its gradient."""


def refuse_scored(loss: Tensor, scored: Iterable[Node], universe: Universe) -> None:
    """Raise if the graph of a loss, or of a score, goes through a surrogate of its recording."""
    learned = [t for node in scored if node.fn for t, _ in parameters(node.fn)]
    for node in nodes_of([loss, *(t for t in learned if t.requires_grad)]):
        found = node.metadata.get(SURROGATE) if node.name().startswith("Exp") else None
        if found is not None and found[0] == universe.token:
            raise ScoredLossError(
                f"the loss is computed from an.surrogate at {found[1]}, or from its gradient with "
                "create_graph=True: the derivatives of both hold the scores of the draws already, "
                "which would count twice; take that gradient without create_graph, so that it is a "
                "constant, or write the surrogate of that step as "
                "(d.log_prob(z) * cost.detach()).sum()"
            )
