"""Ops on a plain draw that has all its values: those that mean the same with more dimensions.

The values stand along dimensions to the left of all that the program knows of. An op that counts
dimensions from the left, or reads how many there are, would take them for its own; one that moves
or mixes them would lose them. So an op is allowed that is known to count from the right and to
broadcast, and every other is refused, with its line.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from ancestral.provenance.algebra.provenance import Source
from ancestral.provenance.algebra.source_alignments import claimed
from ancestral.provenance.rules.pointwise import pointwise, where
from ancestral.provenance.rules.registry import rule_of
from ancestral.provenance.tensor.arguments import argument, tensors_in
from ancestral.provenance.tensor.frame_owner import module_of, owner_of
from ancestral.provenance.tensor.tensor import provenance, raw
from ancestral.trace.context.errors import EnumerationError
from ancestral.trace.context.place import place
from ancestral.trace.graph.find_plates import kept

_CONVERSIONS = frozenset("float double half bfloat16 to type long int clone detach".split())
_METADATA = frozenset(
    "dtype device requires_grad layout is_cuda grad_fn is_floating_point is_complex".split()
)
_ALONG = frozenset("softmax log_softmax sum mean prod logsumexp amax amin".split())
_SHAPES = frozenset("shape size dim ndim numel nelement __len__".split())
_WRITES = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__"})


def refuse(func: Any, args: Any, kwargs: Any, first_dim: int) -> None:
    """Raise if a call does not mean the same where a draw has all its values.

    Raises:
        EnumerationError: with the op and the line of the user.
    """
    sites = sites_of(tensors_in(args, kwargs))
    if not sites or not is_of_user(sys._getframe(1)):
        return
    problem = _problem(func, args, kwargs, first_dim)
    if problem:
        raise refusal(f"{_name(func)} {problem}", sites)


def sites_of(tensors: Iterable[Tensor]) -> list[str]:
    """Return the names of the draws for each of whose values some tensors have an element."""
    return sorted({source.name for tensor in tensors for source in _sources(tensor)})


def refusal(what: str, sites: Iterable[str]) -> EnumerationError:
    """Return the error that something of the user does not mean the same for all values."""
    return EnumerationError(
        f"{place().location}: {what}; but it is given what depends on "
        f"{', '.join(map(repr, sites))}, which has all its values at once, along a dimension "
        "left of all others; write it with ops that broadcast, and that count dimensions from "
        "the right (dim=-1), or draw the site, and have it summed out by runs of the program: "
        "an.estimate(program, estimators=an.estimators.ExactSum())"
    )


def _sources(tensor: Tensor) -> list[Source]:
    """Return the draws for each of whose values a tensor has an element."""
    found = provenance(tensor)
    if found is None:
        return []
    return [source for source in found.universe.origins(found.members) if source.is_confined]


def _is_moved(tensor: Tensor, first_dim: int) -> bool:
    """Return whether values stand along a dimension that is of the program: they were moved."""
    found = provenance(tensor)
    return found is not None and any(
        kept(alignment)[place] == 0 and place - len(found.shape) > first_dim
        for source, alignments in claimed(found).items()
        if source.is_confined
        for alignment in alignments
        for place in range(len(kept(alignment)))
    )


def is_of_user(frame: FrameType | None) -> bool:
    """Return whether the user's code, or a module of torch, called the op, and no density or we."""
    while frame is not None:
        owner, module = owner_of(frame), module_of(frame)
        if owner == "user":
            return True
        is_ours = module.startswith(("ancestral.trace", "ancestral.estimators"))
        is_broadcast = owner == "pyro" and frame.f_code.co_name != "shape"
        if owner == "distributions" or is_broadcast:
            return False
        if is_ours and not module.startswith(__package__):
            return False
        frame = frame.f_back
    return False


def _problem(func: Any, args: Any, kwargs: Mapping[str, Any], first_dim: int) -> str:
    """Return what is wrong with a call, "" for nothing."""
    name, tensors = _name(func), tensors_in(args, kwargs)
    if any(_is_moved(tensor, first_dim) for tensor in tensors):
        return "is given values that an op before it has moved to a dimension of the program"
    others = [tensor for tensor in tensors if not _sources(tensor)]
    if any(_is_wide(tensor, first_dim) for tensor in others):
        return f"meets a tensor that has a dimension {first_dim}, too: say enumerate(first_dim=...)"
    if kwargs.get("out") is not None or kwargs.get("inplace") or _is_write(name):
        return "writes in place"
    if name in _METADATA or rule_of(func) in (pointwise, where):
        return ""
    if name in _CONVERSIONS:
        return "" if not others else "converts as another tensor"
    if name in _ALONG:
        dim = argument(args, kwargs, 1, "dim")
        dims = dim if isinstance(dim, tuple | list) else (dim,)
        is_right = all(isinstance(d, int) and first_dim < d < 0 for d in dims)
        return (
            "" if dims and is_right else "is along dimensions that are not counted from the right"
        )
    known = _PARTS.get(name)
    if known is not None:
        is_plain = not any(map(_sources, tensors_in(args[1:], kwargs)))
        return "" if known(args, kwargs, is_plain) else "has operands for which it is not known"
    if name == "__getitem__":
        return _problem_of_index(args[0], args[1])
    if name in _SHAPES:
        return "tells of the dimension of the values too"
    return "is not known to keep values apart along a dimension"


def _is_wide(tensor: Tensor, first_dim: int) -> bool:
    size = tuple(raw(Tensor.size, tensor))
    return any(n != 1 for n in size[: max(len(size) + first_dim + 1, 0)])


def _is_write(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or name in _WRITES


def _is_lookup(args: Any, kwargs: Mapping[str, Any], _: bool) -> bool:
    """Return whether rows of a plain table are looked up, and the table stays as it is."""
    return not _sources(args[1]) and kwargs.get("max_norm") is None and len(args) == 2


def _is_row_by_matrix(args: Any, kwargs: Mapping[str, Any], is_plain: bool) -> bool:
    return is_plain and len(args) == 2 and isinstance(args[1], Tensor) and args[1].dim() == 2


def _has_classes(args: Any, kwargs: Mapping[str, Any], _: bool) -> bool:
    classes = argument(args, kwargs, 1, "num_classes")
    return isinstance(classes, int) and classes > 0


_PARTS: dict[str, Callable[[Any, Mapping[str, Any], bool], bool]] = {
    "embedding": _is_lookup,
    "linear": lambda _, __, is_plain: is_plain,
    "layer_norm": lambda _, __, is_plain: is_plain,
    "matmul": _is_row_by_matrix,
    "one_hot": _has_classes,
}
"""Further ops that count dimensions from the right, each with its condition on the operands."""


def _problem_of_index(operand: Any, index: Any) -> str:
    if isinstance(index, Tensor):
        is_lookup = not _sources(operand) and index.dtype in (torch.int64, torch.int32)
        return "" if is_lookup else "takes elements by what is not an index alone"
    parts = index if isinstance(index, tuple) else (index,)
    is_plain = all(isinstance(p, int | slice | type(None)) for p in parts[1:])
    return "" if parts[0] is Ellipsis and is_plain else "counts dimensions from the left"


def _name(func: Any) -> str:
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        owner = func.__self__
        return str(getattr(getattr(owner, "fget", owner), "__name__", owner))
    return name
