"""Step nodes: the sites of a compiled step as baselines see them, with its draws and parameters.

A graph holds tensors, no distributions: that of a recording is made anew with those of the step.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.distributions import Distribution, Transform
from torch.distributions.utils import lazy_property

from ancestral.estimators.capture.markers import GIVEN
from ancestral.estimators.capture.refusal import Refusal
from ancestral.trace.nodes.distribution_params import factorized, is_class_of_torch
from ancestral.trace.nodes.mask import is_passing
from ancestral.trace.nodes.node import Node

_COMPOSED = (Distribution, Transform, list, tuple, dict)


@dataclass(frozen=True, eq=False)
class StepNode:
    """A site of a recording, and the names of the tensors of its distribution, by their order."""

    node: Node
    names: tuple[str, ...]

    def given(self, tensors: Sequence[Tensor]) -> Node:
        """Return the site of a step, of its value and of those tensors."""
        value, *held = tensors
        assert self.node.fn is not None
        known = dict(zip(self.names, held, strict=True))
        return replace(self.node, fn=_twin(factorized(self.node.fn), known), value=value)


def _twin(fn: Any, known: Mapping[str, Tensor]) -> Any:
    """Return a distribution with other tensors in place of all that it holds, or computes once."""
    twin: Any = object.__new__(type(fn))
    for name, item in vars(fn).items():
        if isinstance(item, Distribution) and not _is_lazy(fn, name):
            start = f"{name}."
            inner = {n.removeprefix(start): t for n, t in known.items() if n.startswith(start)}
            vars(twin)[name] = _twin(item, inner)
        elif not isinstance(item, Tensor) and not _is_lazy(fn, name):
            vars(twin)[name] = item
    vars(twin).update({n: t for n, t in known.items() if "." not in n}, _validate_args=False)
    return twin


def step_node_of(site: fx.Node, node: Node) -> tuple[StepNode, list[fx.Node]]:
    """Return a site as a step has it, and the nodes of the graph that it is given.

    Args:
        site: the draw in the graph, which is marked.
        node: the same draw in a recording.

    Raises:
        Refusal: if its distribution holds what nobody can name.
    """
    value: Any = site.args[0]
    if value.target is not GIVEN or node.fn is None:
        raise Refusal.of(site, f"the baseline of {node.name!r} reads what it is drawn from")
    _, tensors, names = value.args
    unknown = next(_unknown(factorized(node.fn), frozenset(names), ""), None)
    if unknown is not None:
        raise Refusal.of(
            site, f"the baseline of {node.name!r} reads {unknown!r} of what it is drawn from"
        )
    return StepNode(node, tuple(names)), [value, *tensors]


def _unknown(fn: Distribution, names: frozenset[str], prefix: str) -> Iterator[str]:
    """Yield the attributes of a distribution that may be others in another step."""
    kind: Any = type(fn)
    if not is_class_of_torch(kind):
        yield prefix + kind.__name__
    for name, item in vars(fn).items():
        full = prefix + name
        if full in names or _is_lazy(fn, name):
            continue
        if isinstance(item, Distribution):
            yield from _unknown(item, names, f"{full}.")
        elif isinstance(item, Tensor) or not _is_fixed(item):
            yield full


def _is_lazy(fn: Distribution, name: str) -> bool:
    """Return whether an attribute is computed of others, where it is first asked for."""
    return isinstance(getattr(type(fn), name, None), lazy_property)


def _is_fixed(item: object) -> bool:
    """Return whether something holds no tensor."""
    if type(item) in (list, tuple):
        return all(map(_is_fixed, item))  # type: ignore[call-overload]
    kind: Any = type(item)
    if isinstance(item, Transform):
        return is_class_of_torch(kind) and not any(
            isinstance(each, (*_COMPOSED, Tensor))
            for name, each in vars(item).items()
            if not is_passing(item, name)
        )
    return isinstance(item, torch.Size) or not isinstance(item, _COMPOSED)
