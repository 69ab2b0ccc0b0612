"""Packing of the values of sites into one flat vector, and back.

>>> import torch
>>> from torch.distributions import Normal
>>> from ancestral.trace.program.primitives import sample
>>> from ancestral.trace.recording.record import record
>>> with record() as trace:
...     z = sample("z", Normal(torch.zeros(2, 3), 1.0))
...     w = sample("w", Normal(0.0, 1.0))
>>> vector = trace.pack()
>>> vector.shape, {name: value.shape for name, value in trace.unpack(vector).items()}
(torch.Size([7]), {'z': torch.Size([2, 3]), 'w': torch.Size([])})
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.tensor.tensor import untrack
from ancestral.trace.context.argument_checks import short
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.node import Node


def chosen(nodes: Mapping[str, Node], names: Iterable[str] | None) -> list[Node]:
    """Return the nodes with these names, in this order; without any, the free random choices.

    Raises:
        SiteError: if there is no such node, or if it is enumerated.
    """
    if names is None:
        return [n for n in nodes.values() if n.is_stochastic and not n.is_enumerated]
    if isinstance(names, str):
        raise SiteError(f"names must be several, as in [{short(names)}], not one text")
    listed: list[Any] = [names] if isinstance(names, Tensor) else list(names)
    for name in listed:
        if not isinstance(name, str) or name not in nodes:
            known = ", ".join(map(repr, nodes)) or "none"
            raise SiteError(f"the trace has no site {short(name)}; it has {known}")
        if listed.count(name) > 1:
            raise SiteError(f"site {name!r} is named twice; a vector holds it once")
        if nodes[name].is_enumerated:
            raise SiteError(
                f"site {name!r} ({nodes[name].location}) is enumerated: it has all its values at "
                "once, and none that a vector could give it; leave it out"
            )
    return [nodes[name] for name in listed]


def pack(nodes: Mapping[str, Node], names: Iterable[str] | None) -> Tensor:
    """Return the values of nodes behind each other, [size].

    Its dtype is the one that the dtypes of the values promote to.

    Raises:
        SiteError: if that dtype cannot hold a value, as float32 cannot large integers.
    """
    found = chosen(nodes, names)
    if not found:
        return torch.zeros(0)
    dtype = functools.reduce(torch.promote_types, (node.value.dtype for node in found))
    for node in found:
        if not _holds(dtype, node.value):
            raise SiteError(
                f"site {node.name!r} ({node.location}) holds {node.value.dtype} values that "
                f"{dtype}, to which the dtypes of the sites promote, cannot; pack it by itself"
            )
    return torch.cat([node.tracked_value.reshape(-1).to(dtype) for node in found])


def unpack(
    nodes: Mapping[str, Node], vector: Tensor, names: Iterable[str] | None
) -> dict[str, Tensor]:
    """Return the parts of a vector, each with the shape and the dtype of its site.

    Raises:
        SiteError: if the vector is no tensor or has another size, or the dtype of a site cannot
            hold its part.
    """
    if not isinstance(vector, Tensor):
        raise SiteError(f"the vector is a {type(vector).__name__}; expected a torch.Tensor")
    found = chosen(nodes, names)
    sizes = [node.value.numel() for node in found]
    if tuple(vector.shape) != (sum(sizes),):
        listed = ", ".join(f"{n.name!r} {list(n.value.shape)}" for n in found) or "no site"
        raise SiteError(
            f"the vector has shape {list(vector.shape)}; expected [{sum(sizes)}], for {listed}"
        )
    parts = torch.split(vector, sizes) if sizes else ()
    return {
        node.name: _as_of(node, part).reshape(node.value.shape)
        for node, part in zip(found, parts, strict=True)
    }


def _as_of(node: Node, part: Tensor) -> Tensor:
    dtype = node.value.dtype
    if not _holds(dtype, part):
        first = untrack(part).detach()[:3].tolist()
        raise SiteError(
            f"site {node.name!r} ({node.location}) has values of {dtype}, which cannot hold its "
            f"part of the vector, of {part.dtype}: {first}"
        )
    return part.to(dtype)


def _holds(dtype: torch.dtype, value: Tensor) -> bool:
    """Return whether a dtype holds values as they are; floats may be rounded, to finite ones."""
    plain = untrack(value).detach()
    there = plain.to(dtype)
    is_wide = dtype.is_complex or (dtype.is_floating_point and not plain.is_complex())
    if is_wide and (plain.is_floating_point() or plain.is_complex()):
        return bool(torch.equal(plain.isfinite(), there.isfinite()))
    return bool(torch.equal(there.to(plain.dtype).nan_to_num(), plain.nan_to_num()))
