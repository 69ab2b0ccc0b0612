"""The rules of alignment: for each family of ops, which dimension of an operand indexes the result.

The families stand in modules of their own; each has a table with one row for a rule, and the names
in torch, Tensor and torch.nn.functional that the rule is for. The engine in
`ancestral.provenance.inference` joins the pairs that a rule answers with; a tracked tensor that no
pair names, and every op that has no rule, loses its alignments and never its sources.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from ancestral.provenance import (
    contractions,
    convolutions,
    indexing,
    layers,
    losses,
    reductions,
    scans,
    slices,
    views,
)
from ancestral.provenance import pointwise as elementwise
from ancestral.provenance.operands import (
    Args,
    Function,
    Kwargs,
    Pair,
    Rule,
    argument,
    positional,
    tensors_in,
)
from ancestral.provenance.pointwise import pointwise, separately
from ancestral.provenance.scans import along

RULES: dict[Function, Rule] = {}


def operands_of(function: Function, index: int, args: Args) -> Args:
    """Return the arguments that result number `index` comes from."""
    if function in _LENGTHS_APART and index == 1:
        return args[1:2]
    rule = RULES.get(function)
    if rule in layers.NUMBERED:
        return (index, *args)
    if rule is not separately:
        return args
    single = args[0] if len(args) == 1 and isinstance(args[0], (tuple, list)) else args
    return (single[index],)


# Their second result, the sizes of the batch or the lengths, comes from the second argument alone.
_LENGTHS_APART = frozenset({torch._VF._pack_padded_sequence, torch._VF._pad_packed_sequence})

_FAMILIES = (
    elementwise,
    reductions,
    scans,
    convolutions,
    contractions,
    views,
    slices,
    indexing,
    losses,
    layers,
)
_NAMESPACES = (torch, Tensor, F, torch.special, torch._C._nn, torch.linalg)  # pyright: ignore[reportPrivateUsage]


def _register() -> None:
    """Enter the rules of all families."""
    for family in _FAMILIES:
        for rule, names in family.TABLE.items():
            for name in names.split():
                # An in-place op is its own family: what is written is the operand.
                spellings = (name, name + "_") if rule in (pointwise, along) else (name,)
                for spelling in spellings:
                    for namespace in _NAMESPACES:
                        if hasattr(namespace, spelling):
                            RULES[getattr(namespace, spelling)] = rule
    RULES[torch.embedding] = indexing.table_first
    for getters in (elementwise.GETTERS, views.GETTERS):
        for rule, names in getters.items():
            for name in names.split():
                RULES[getattr(Tensor, name).__get__] = rule


_register()

__all__ = [
    "RULES",
    "Args",
    "Function",
    "Kwargs",
    "Pair",
    "Rule",
    "argument",
    "operands_of",
    "pointwise",
    "positional",
    "tensors_in",
]
