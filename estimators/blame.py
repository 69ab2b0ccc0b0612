"""Blame: which op was taken apart wrong, where the terms of a loss do not add up to it.

Every step is checked by itself, oldest first: its value, computed again from those of its operands,
times its weight must be the sum of the values of its operands times theirs.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ancestral.estimators.walk import Step, Walk
from ancestral.provenance.adjoints import name_of, value_of
from ancestral.provenance.forms import resolve
from ancestral.provenance.linear import Form, Placed, Share, Weight
from ancestral.provenance.linear_losses import Unreduced
from ancestral.provenance.tensor import provenance, raw
from ancestral.trace.trace import Trace


class Blame(NamedTuple):
    """What was taken apart wrong: the op, its shape, its sources; None if all is right.

    `size` is the largest sum of sizes on the way, to which rounding errors are relative.
    """

    text: str | None
    size: float


def blamed(loss: Tensor, weight: Weight) -> Blame:
    """Return the first step that does not add up, and the size of what was added."""
    walk = Walk()
    steps: list[Step] = []
    walk.visit(resolve(loss), weight, -1)
    while walk.heap:
        steps.append(walk.step())
    values: dict[int, Tensor] = {}
    largest = 0.0
    for step in sorted(steps, key=lambda step: step.form[0]):
        operands = [_value(operand, values, walk) for operand in step.form[2]]
        value = values[id(step.form)] = value_of(step.form, operands)
        given, size = _product(step.weight, value)
        got = [_product(share, x) for share, x in zip(step.shares, operands, strict=True)]
        largest = max(largest, size + sum(part for _, part in got))
        if not abs(given - sum(part for part, _ in got)) <= 1e-6 * largest:
            return Blame(_described(step.form, value), largest)
    return Blame(None, largest)


def _value(operand: Any, values: dict[int, Tensor], walk: Walk) -> Tensor:
    if operand.__class__ is tuple:
        return values[id(operand)]
    if isinstance(operand, Unreduced):
        each = walk.computed[id(operand)][1]
        return _double(each) * operand.scale(each)
    return (
        _double(operand)
        if isinstance(operand, Tensor)
        else torch.as_tensor(float(operand)).double()
    )


def _double(tensor: Tensor) -> Tensor:
    plain: Tensor = raw(Tensor.detach, tensor)
    return plain.double()


def _product(share: Share, value: Tensor) -> tuple[float, float]:
    """Return the sum of the weighted elements, and that of their sizes."""
    if isinstance(share, Placed):
        value, share = share.part(value), share.weight
    weighted = value.detach() * (share.detach() if isinstance(share, Tensor) else share)
    return float(weighted.sum()), float(weighted.abs().sum())


def _described(form: Form, value: Tensor) -> str:
    sources = ", ".join(sorted(_sources(form))) or "no site"
    return f"{name_of(form)}, of shape {list(value.shape)}, depending on {sources},"


def _sources(form: Form) -> set[str]:
    """Return the sources of all that a form was made of, with the lines where they were drawn."""
    found: set[str] = set()
    pending: list[Any] = [form]
    seen: set[int] = set()
    while pending:
        operand = pending.pop()
        if id(operand) in seen:
            continue
        seen.add(id(operand))
        if operand.__class__ is tuple:
            pending.extend(operand[2])
        elif isinstance(operand, Unreduced):
            pending.extend(tensor for tensor, _ in operand.versions)
        else:
            known = provenance(operand)
            owner = None if known is None else known.universe.owner
            for source in () if known is None else known.sources:
                node = owner.get(source.name) if isinstance(owner, Trace) else None
                found.add(repr(source.name) + (f" ({node.location})" if node else ""))
    return found
