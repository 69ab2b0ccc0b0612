"""Inference rules: the provenance of a result from those of its operands.

What a rule answers depends on shapes and numbers only, so that an answer is found once for each
kind of call and remembered with the provenance of its first operand.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from ancestral.provenance.algebra.alignment_loss import note
from ancestral.provenance.algebra.provenance import Provenance, union
from ancestral.provenance.rules.indexing import reads_values
from ancestral.provenance.rules.op import Rule, unnamed
from ancestral.provenance.rules.registry import RULES, is_kink
from ancestral.provenance.rules.slicing import Piece
from ancestral.provenance.tensor import storage
from ancestral.provenance.tensor.arguments import positional, tensors_in
from ancestral.provenance.tensor.tensor import ProvenanceTensor, provenance, raw

_Function = Callable[..., Any]
ATOMS = frozenset({int, float, str, type(None), type(Ellipsis), torch.dtype, torch.memory_format})


def tracked(*nested: Any) -> list[Provenance]:
    """Return the provenances of the tensors in arguments, at any depth."""
    return [*filter(None, map(provenance, tensors_in(*nested)))]


def infer(
    func: _Function, result: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Provenance | None:
    """Return the provenance of a result, a tensor, None where it depends on no source."""
    shape = tuple(raw(Tensor.size, result))
    if func is Tensor.expand and not storage.table and type(args[0]) is ProvenanceTensor:
        ours: Provenance = args[0]._provenance
        if ours.shape == shape and all(type(size) in (int, torch.Size) for size in args[1:]):
            return ours  # what every draw does, to no effect
    dtype = raw(_dtype, result)
    found: list[Provenance] = []
    is_of_values = bool(storage.table) or reads_values(func, args, kwargs)
    kind = None if is_of_values else _kind((*args, *kwargs.items()), found)
    if kind is None or len({*map(_universe_of, found)}) != 1:
        unknown = _past_kinks(func, shape, dtype, args, kwargs)
        if unknown is not None:
            note(name_of(func), unknown, tracked(args, kwargs))
        return unknown
    memo = found[0].calls
    key = (func, shape, dtype, kind)
    if key not in memo:
        memo[key] = result_of = _past_kinks(func, shape, dtype, args, kwargs)
        if result_of is not None:
            note(name_of(func), result_of, found)
    return memo[key]


def name_of(func: _Function) -> str:
    """Return what a user calls a function."""
    name: str = func.function.__name__ if isinstance(func, Piece) else func.__name__
    return name.strip("_")


_universe_of = attrgetter("universe")
_dtype = Tensor.dtype.__get__  # type: ignore[attr-defined]


def _past_kinks(
    func: _Function,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Provenance | None:
    found = _by_rule(func, shape, args, kwargs)
    return found.kinked() if found is not None and is_kink(func, dtype, args, kwargs) else found


def _kind(items: Sequence[Any], found: list[Provenance]) -> tuple[Any, ...] | None:
    """Return what a rule can see of arguments, None where that cannot be hashed.

    The provenances met on the way are added to `found`.
    """
    parts: list[Any] = []
    for item in items:
        cls = item.__class__
        if cls is ProvenanceTensor:
            found.append(item._provenance)
            parts.append((item._provenance, item.dtype))  # a mask is no index
        elif cls is Tensor or cls is nn.Parameter:
            parts.append((item.shape, item.dtype))
        elif cls in ATOMS:
            parts.append(item)
        elif cls is bool:
            parts.append((item,))  # True is no 1
        elif cls is tuple or cls is list or cls is torch.Size:
            inner = _kind(item, found)
            if inner is None:
                return None
            parts.append((cls, inner))
        elif cls is slice:
            inner = _kind((item.start, item.stop, item.step), found)
            if inner is None:
                return None
            parts.append((cls, inner))
        else:
            return None
    return tuple(parts)


def _rule_of(func: _Function) -> Rule | None:
    """Return the rule of a function, or of the one of torch that it takes the place of."""
    return RULES.get(func) or RULES.get(getattr(func, "__wrapped__", func))


def _by_rule(
    func: _Function, shape: tuple[int, ...], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Provenance | None:
    """Join what the rule says of each operand; those it does not name lose their alignments."""
    rule = func.rule if isinstance(func, Piece) else _rule_of(func)
    args, kwargs = positional(args, kwargs)
    pairs = tuple((rule(shape, args, kwargs) if rule is not None else None) or ())
    rest = unnamed(pairs, args, kwargs)
    if pairs and rest and any(not tensor.shape for tensor in rest):
        # A dimension, perhaps, that was given as a tensor: no rule reads those.
        rest, pairs = [*(named for named, _ in pairs), *rest], ()
    parts: list[Provenance] = []
    for tensor, step in pairs:
        ours = provenance(tensor)
        moved = None if ours is None or step is None else ours.remap(shape, step)
        if moved is not None:
            parts.append(moved)
    for tensor in rest:
        ours = provenance(tensor)
        if ours is not None:
            parts.append(ours.lost(shape))
    return union(parts) if parts else None
