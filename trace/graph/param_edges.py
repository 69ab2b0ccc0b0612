"""Parameters in a graph: which of them reach a site, a named value or a cost, through no other.

Found in autograd's graph, from the parameters of a distribution down to the leaves, not through the
values of other sites. What is drawn, or computed, under `torch.no_grad` shows no parameters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.context.place import Location
from ancestral.trace.nodes.autograd_graph import edge_of
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
        for leaf in _leaves([edge_of(node.value)], frozenset()):
            leaves.setdefault(leaf, place)
    for name, tensor in named:
        if (leaf := edge_of(tensor)) is not None and leaf not in leaves:
            leaves[leaf] = len(holders)
            holders.append((name, tuple(tensor.shape), _NOWHERE))
    children: list[list[str]] = [[] for _ in holders]
    for child, starts, others in _consumers(nodes, costs or {}) if leaves else ():
        for place in {leaves[leaf] for leaf in _leaves(starts, others) if leaf in leaves}:
            children[place].append(child)
    found = [Param(*held, tuple(names)) for held, names in zip(holders, children, strict=True)]
    return tuple(_joined([param for param in found if param.children]))


def _consumers(
    nodes: Sequence[Node], costs: Mapping[str, Tensor]
) -> Iterator[tuple[str, list[Any], frozenset[Any]]]:
    """Yield vertices, the nodes of autograd that they come out of, and those of other values."""
    values = {n.name: _made(n.value) for n in nodes if n.type in ("sample", "deterministic")}
    all_ = frozenset[Any]().union(*values.values())
    for node in nodes:
        if node.type == "sample" and node.fn is not None:
            starts = [edge_of(tensor) for tensor, _ in parameters(node.fn)]
        elif node.type in ("deterministic", "cost"):
            starts = [edge_of(node.value)]
        else:
            continue
        yield node.name, starts, all_ - values.get(node.name, frozenset())
    for name, tensor in costs.items():
        yield name, [edge_of(tensor)], all_


def _made(value: Tensor) -> frozenset[Any]:
    """Return what a value came out of, of which that of a node is an alias."""
    made = edge_of(value)
    if made is None or hasattr(made, "variable"):
        return frozenset()
    return frozenset({made, *(step for step, _ in made.next_functions[:1])} - {None})


def _leaves(starts: Sequence[Any], stops: frozenset[Any]) -> list[Any]:
    """Return the leaves below some nodes of autograd, but for those below others."""
    seen: dict[Any, None] = {}
    pending, found = list(starts), list[Any]()
    while pending:
        node = pending.pop()
        if node is None or node in seen or node in stops:
            continue
        seen[node] = None
        if hasattr(node, "variable"):
            found.append(node)
        pending.extend(step for step, _ in node.next_functions)
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
