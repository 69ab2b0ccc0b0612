"""Blame: which op was taken apart wrong, where the terms of a loss do not add up to it.

Every step is checked by itself, oldest first: its value, computed again from those of its operands,
times its weight must be the sum of the values of its operands times theirs.
"""

from typing import Any

import torch
from torch import Tensor

from ancestral.estimators.walk import Step, Walk
from ancestral.provenance.adjoints import name_of, value_of
from ancestral.provenance.forms import resolve
from ancestral.provenance.linear import Form, Placed, Share, Weight
from ancestral.provenance.linear_losses import Unreduced
from ancestral.provenance.tensor import provenance, raw
from ancestral.trace.record import Trace


def blamed(loss: Tensor, weight: Weight) -> str | None:
    """Return what was taken apart wrong: the op, its shape, its sources. None if all is right."""
    walk = Walk()
    steps: list[Step] = []
    walk.visit(resolve(loss), weight, -1)
    while walk.heap:
        steps.append(walk.step())
    values: dict[int, Tensor] = {}
    for step in sorted(steps, key=lambda step: step.form[0]):
        operands = [_value(operand, values, walk) for operand in step.form[2]]
        value = values[id(step.form)] = value_of(step.form, operands)
        given = _product(step.weight, value)
        got = [_product(share, x) for share, x in zip(step.shares, operands, strict=True)]
        size = sum((abs(part) for part in (given, *got)), 0.0)
        if not abs(given - sum(got)) <= 1e-6 * size:
            return _described(step.form, value)
    return None


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


def _product(share: Share, value: Tensor) -> float:
    if isinstance(share, Placed):
        value, share = share.part(value), share.weight
    weight = share.detach() if isinstance(share, Tensor) else share
    return float((value.detach() * weight).sum())


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
