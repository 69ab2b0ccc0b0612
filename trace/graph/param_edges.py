"""Parameters in a graph: which of them reach a site, a named value or a cost, through no other.

Found in autograd's graph, from the parameters of a distribution down to the leaves, not through the
values of other sites. What is drawn, or computed, under `torch.no_grad` shows no parameters.
"""

import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.context.place import Location
from ancestral.trace.nodes.autograd_graph import edge_of, visited
from ancestral.trace.nodes.distribution_params import parameters
from ancestral.trace.nodes.node import Node

_NOWHERE = Location("<parameters>", 0, "")


@dataclass(frozen=True)
class Param:
    """A parameter, or `count` of a module that reach the same vertices, and these in order."""

    name: str
    shape: Shape
    location: Location
    children: tuple[str, ...]
    count: int = 1


def params_of(
    nodes: Sequence[Node],
    named: Iterable[tuple[str, Tensor]] = (),
    costs: Mapping[str, Tensor] | None = None,
) -> tuple[Param, ...]:
    """Return the parameters that reach the nodes of a trace; those of modules together.

    Args:
        nodes: the nodes, those of `an.param` among them.
        named: further parameters by name, those of a module.
        costs: the terms of a loss, by the name of their vertex.
    """
    asked = [node for node in nodes if node.type == "param"]
    holders = [(node.name, tuple(node.value.shape), node.location) for node in asked]
    leaves: dict[Any, int] = {}
    for place, node in enumerate(asked):
        for each in visited([edge_of(node.value)], None):
            if hasattr(each, "variable"):
                leaves.setdefault(each, place)
    for name, tensor in named:
        if (leaf := edge_of(tensor)) is not None and leaf not in leaves:
            leaves[leaf] = len(holders)
            holders.append((name, tuple(tensor.shape), _NOWHERE))
    children: list[list[str]] = [[] for _ in holders]
    for child, reached in _reached(nodes, costs or {}, leaves) if leaves else ():
        for place in range(len(holders)):
            if reached >> place & 1:
                children[place].append(child)
    found = [Param(*held, tuple(names)) for held, names in zip(holders, children, strict=True)]
    return tuple(_joined([param for param in found if param.children]))


def _reached(
    nodes: Sequence[Node], costs: Mapping[str, Tensor], leaves: Mapping[Any, int]
) -> Iterator[tuple[str, int]]:
    """Yield vertices, and which parameters reach them, as the bits of an integer."""
    made = {n.name: _made(n.value) for n in nodes if n.type in ("sample", "deterministic")}
    # By the node of autograd; those that values come out of end what is below them.
    known: dict[Any, int] = {step: 0 for steps in made.values() for step in steps}
    known |= {leaf: 1 << place for leaf, place in leaves.items()}
    for node in nodes:
        if node.type == "sample" and node.fn is not None:
            yield node.name, _union([edge_of(tensor) for tensor, _ in parameters(node.fn)], known)
        elif node.type == "deterministic":
            below = [step for own in made[node.name] for step, _ in own.next_functions]
            yield node.name, _union(below or [edge_of(node.value)], known)
        elif node.type == "cost":
            yield node.name, _union([edge_of(node.value)], known)
    for name, tensor in costs.items():
        yield name, _union([edge_of(tensor)], known)


def _made(value: Tensor) -> tuple[Any, ...]:
    """Return the nodes of autograd that a value came out of, of which that of a node is an alias.

    The program goes on with the value itself, or with another alias of it.
    """
    made = edge_of(value)
    if made is None or hasattr(made, "variable"):
        return ()
    below = next((step for step, _ in made.next_functions), None)
    is_alias = made.name() == "AliasBackward0" and not hasattr(below, "variable")
    return (made, below) if is_alias and below is not None else (made,)


def _union(starts: Iterable[Any], known: dict[Any, int]) -> int:
    """Return the bits of all that is below some nodes of autograd, and keep those of each."""
    found = 0
    for start in starts:
        pending = [] if start is None else [start]
        while pending:
            node = pending[-1]
            below = [step for step, _ in node.next_functions if step is not None]
            missing = [step for step in below if step not in known]
            if node not in known and missing:
                pending += missing
                continue
            if node not in known:
                known[node] = functools.reduce(operator.or_, map(known.__getitem__, below), 0)
            pending.pop()
        found |= 0 if start is None else known[start]
    return found


def _joined(params: Sequence[Param]) -> Iterator[Param]:
    """Yield the parameters, those of modules together that have the same children."""
    groups: dict[tuple[str, ...], list[Param]] = {}
    for param in params:
        own = () if "." in param.name else (param.name,)
        groups.setdefault((*own, "", *param.children), []).append(param)
    for group in groups.values():
        first = group[0]
        name = first.name if len(group) == 1 else _modules([param.name for param in group])
        yield replace(first, name=name, count=len(group))


def _modules(names: Sequence[str]) -> str:
    """Return what the modules are called that hold some parameters.

    >>> _modules(["net.0.weight", "net.2.weight"]), _modules(["enc.bias", "dec.bias"])
    ('net', 'enc, dec')
    """
    modules = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    columns = zip(*(module.split(".") for module in modules), strict=False)
    common = [column[0] for column in takewhile(lambda column: len({*column}) == 1, columns)]
    return ".".join(common) or ", ".join(modules)
