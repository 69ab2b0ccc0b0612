"""The rules of alignment: for each family of ops, which dimension of an operand indexes the result.

The families stand in their own modules; each has a table with one row for a rule, and the names
in torch, Tensor and torch.nn.functional that the rule is for. The engine in
`ancestral.provenance.dispatch.propagate` joins the pairs that a rule answers with; a tracked tensor
that no pair names, and every op that has no rule, loses its alignments and never its sources.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance.rules import (
    conv,
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
from ancestral.provenance.rules.indexing import READERS, reads_values
from ancestral.provenance.rules.operands import (
    Args,
    Function,
    Kwargs,
    Pair,
    Rule,
    argument,
    positional,
    tensors_in,
    unnamed,
)
from ancestral.provenance.rules.scan import along
from ancestral.provenance.tensor.torch_internals import VF, nn_functions

RULES: dict[Function, Rule] = {}


def operands_of(function: Function, index: int, args: Args) -> Args:
    """Return the arguments that result number `index` comes from."""
    if function in _LENGTHS_APART and index == 1:
        return args[1:2]
    rule = RULES.get(function)
    if rule in nn.NUMBERED:
        return (index, *args)
    if rule not in (pointwise.separately, shape.alone, shape.meshgrid):
        return args
    single = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
    if rule is shape.meshgrid:
        return [item if place == index else None for place, item in enumerate(single)]
    return (single[index],)


# Their second result, the sizes of the batch or the lengths, comes from the second argument alone.
_LENGTHS_APART = frozenset({VF._pack_padded_sequence, VF._pad_packed_sequence})

_FAMILIES = (pointwise, reduction, scan, conv, matmul, shape, gather, indexing, slicing, nn)
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


def _named(name: str) -> Iterator[Function]:
    """Yield the functions of a name: in all namespaces, or in the one that it is written with."""
    namespace, _, short = name.rpartition(".")
    for key, space in _NAMESPACES.items():
        is_meant = key == namespace if namespace else key not in _APART
        if is_meant and hasattr(space, short):
            yield getattr(space, short)


def _register() -> None:
    """Enter the rules of all families."""
    for family in _FAMILIES:
        for rule, names in family.TABLE.items():
            for name in names.split():
                # An in-place op is its own family: what is written is the operand.
                spellings = (name, name + "_") if rule in (pointwise.pointwise, along) else (name,)
                for spelling in spellings:
                    RULES.update(dict.fromkeys(_named(spelling), rule))
    for getters in (pointwise.GETTERS, shape.GETTERS):
        for rule, names in getters.items():
            for name in names.split():
                RULES[getattr(Tensor, name).__get__] = rule


_register()

__all__ = [
    "READERS",
    "RULES",
    "Args",
    "Function",
    "Kwargs",
    "Pair",
    "Rule",
    "argument",
    "operands_of",
    "positional",
    "reads_values",
    "tensors_in",
    "unnamed",
]
