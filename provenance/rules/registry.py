"""Registry: all rows of ops, and what is looked up in them by a function or by its name.

The engine in `ancestral.provenance.dispatch.propagate` joins the pairs that a rule answers with; a
tracked tensor that no pair names, and every op that has no rule, loses its alignments and never its
sources.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance.linear.build import Builder
from ancestral.provenance.linear.loss_functions import loss
from ancestral.provenance.rules import (
    conv,
    conversion,
    gather,
    indexing,
    matmul,
    nn,
    pointwise,
    reduction,
    scan,
    shape,
    slicing,
)
from ancestral.provenance.rules.op import FIRST, Op, Rule, Written, rank_of
from ancestral.provenance.tensor.arguments import Args, Function, Kwargs, argument
from ancestral.provenance.tensor.torch_internals import VF, nn_functions

_FAMILIES = (pointwise, reduction, scan, conv, matmul, shape, gather, indexing, slicing, nn)
OPS: tuple[Op, ...] = tuple(op for family in (*_FAMILIES, conversion) for op in family.OPS)

_NAMESPACES: dict[str, Any] = {
    "torch": torch,
    "Tensor": Tensor,
    "functional": F,
    "special": torch.special,
    "nn": nn_functions,
    "linalg": torch.linalg,
    "fft": torch.fft,
    "VF": VF,  # what a few functions call with a list of tensors
}
# Where a name is not looked up unless it is written with its namespace: it may mean another op, as
# torch.polar and the torch.linalg.polar of newer versions.
_APART = frozenset({"fft", "linalg", "VF"})


def functions(name: str) -> Iterator[Function]:
    """Yield the functions of a name: in all namespaces, or in the one that it is written with."""
    namespace, _, short = name.rpartition(".")
    if namespace == "get" and hasattr(Tensor, short):
        yield getattr(Tensor, short).__get__
    for key, space in _NAMESPACES.items():
        is_meant = key == namespace if namespace else key not in _APART
        if is_meant and callable(found := getattr(space, short, None)):
            yield found


_NAMED = [(op, name) for op in OPS for name in op.names.split()]
_FOUND = [(op, function) for op, name in _NAMED for function in functions(name)]
_IN_PLACE = [(op, function) for op, name in _NAMED for function in functions(name + "_")]
# What is written by an elementwise op in place is its operand, and so it is for these.
_ALIKE = (pointwise.pointwise, scan.along)

RULES: dict[Function, Rule] = {
    **{function: op.rule for op, function in _IN_PLACE if op.rule in _ALIKE},
    **{function: op.rule for op, function in _FOUND if op.rule is not None},
}
LINEAR: dict[Function, Builder] = {
    function: op.linear
    for op, function in _FOUND
    if callable(op.linear)
    # Elsewhere, a reduction is a number.
    and (op.linear is not loss or function.__module__ == F.__name__)
}
SPLITS = frozenset(function for op, function in _FOUND if op.linear == "parts")
"""The ops that return the parts of their operand, in order."""
KINKS = {function: op.kink for op, function in (*_FOUND, *_IN_PLACE) if op.kink}
_OPERANDS = {function: op.operands for op, function in _FOUND if op.operands is not None}
_DIMENSION = {function: op.cut_along for op, function in _FOUND if op.cut_along is not None}

# By name: so are the overloads of an op known, and in Python what has no function.
_SHORT = [(op, name.rpartition(".")[2]) for op, name in _NAMED]
ESCAPES = {name: op.escapes for op, name in _SHORT if op.escapes}
NUMBERS = frozenset(name.rstrip("_") for op, name in _SHORT if op.reads_numbers)
"""The functions whose numbers become values, or a place to read them at, and no shape."""
WRITES = frozenset(name for op, name in _SHORT if op.written is FIRST)
# torch.nn.functional has other arguments.
WRITTEN: dict[str, Written] = {
    name.removeprefix("torch."): op.written
    for op, name in _NAMED
    if op.written is not None and op.written is not FIRST
}


def rule_of(func: Function) -> Rule | None:
    """Return the rule of a function, or of the one of torch that it takes the place of."""
    return RULES.get(func) or RULES.get(getattr(func, "__wrapped__", func))


def looks_further(func: Function) -> bool:
    """Return whether the rule of a function looks at what no argument tells: the base of a view."""
    return rule_of(func) is shape.reaching


def is_kink(func: Function, dtype: torch.dtype, args: Args, kwargs: Kwargs) -> bool:
    """Return whether a result of this type of a function has no useful derivative."""
    if not (dtype.is_floating_point or dtype.is_complex):
        return True
    kink = KINKS.get(func, False)
    return kink if isinstance(kink, bool) else kink(args, kwargs)


def operands_of(function: Function, index: int, args: Args) -> Args:
    """Return the arguments that result number `index` comes from."""
    chosen = _OPERANDS.get(function)
    return args if chosen is None else chosen(index, args)


def pieces_of(function: Function, results: Sequence[Any], args: Args, kwargs: Kwargs) -> list[Any]:
    """Return, for each result, the function that it is followed as."""
    at = _DIMENSION.get(function)
    if at is None or not args or not isinstance(args[0], Tensor):
        return [function] * len(results)
    dim = argument(args, kwargs, at, "dim", default=0)
    if type(dim) is not int:
        return [function] * len(results)
    dim %= max(rank_of(args[0]), 1)
    found: list[Any] = []
    first = 0
    for result in results:
        found.append(slicing.Piece(function, dim, first))
        first += result.shape[dim] if rank_of(result) == rank_of(args[0]) else 1
    return found
