"""Decomposition of a loss: the walk over its linear forms down to the costs.

Forms are met newest first, so that the weight of each is complete before it is turned into those
of its operands by the adjoint of its step. What has no form is a leaf: a cost, or a constant.
"""

import heapq
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ancestral.provenance.linear.loss import Unreduced
from ancestral.provenance.linear.registry import resolve, written_since
from ancestral.provenance.linear.transpose import name_of, value_of
from ancestral.provenance.tensor.linear_form import (
    Form,
    OverwrittenError,
    Placed,
    Share,
    Weight,
    version_of,
)
from ancestral.provenance.tensor.tensor import provenance, raw, untrack
from ancestral.trace.recording.trace import Trace


class Constant(NamedTuple):
    """What a linear form, of this number, added to a loss that depends on no source: [].

    The number is -1 where it is the loss itself.
    """

    serial: int
    live: Tensor


class Step(NamedTuple):
    """One form that was taken apart: its weight, and what its operands got."""

    form: Form
    weight: Weight
    shares: tuple[Share, ...]


class Pending:
    """The weight of an operand, as far as it is known."""

    __slots__ = ("operand", "parts", "weight")

    def __init__(self, operand: Any) -> None:
        """Begin with no weight."""
        self.operand = operand
        self.weight: Weight | None = None
        self.parts: Tensor | None = None  # weights of parts, put together

    def add(self, share: Share) -> None:
        """Add the share of one use."""
        if isinstance(share, Placed):
            if self.parts is None:
                device = share.weight.device if isinstance(share.weight, Tensor) else None
                self.parts = torch.zeros(share.shape, dtype=torch.float64, device=device)
            share.part(self.parts).add_(share.weight)
        else:
            self.weight = share if self.weight is None else self.weight + share

    @property
    def total(self) -> Weight:
        """The sum of all shares."""
        if self.parts is None:
            return 0.0 if self.weight is None else self.weight
        return self.parts if self.weight is None else self.parts + self.weight


class Walk:
    """The walk of one loss; `run` takes it to the end."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.heap: list[tuple[int, int]] = []
        self.forms: dict[int, Pending] = {}
        self.leaves: dict[int, Pending] = {}
        self.computed: dict[int, tuple[Unreduced, Tensor]] = {}
        self.constant = 0.0
        self.constants: list[Constant] = []

    def run(self, loss: Tensor, weight: Weight) -> None:
        """Take a loss apart.

        Raises:
            OverwrittenError: if something that it was computed from was overwritten since.
        """
        self.visit(resolve(loss), weight, -1)
        while self.heap:
            self.step()

    def visit(self, operand: Any, share: Share, serial: int) -> None:
        """Meet an operand of the form with this number."""
        if operand.__class__ is tuple:
            key = id(operand)
            known = self.forms.get(key)
            if known is None:
                heapq.heappush(self.heap, (-operand[0], key))
                known = self.forms[key] = Pending(operand)
            known.add(share)
        elif isinstance(operand, Tensor):
            if serial >= 0 and written_since(operand, serial):
                raise OverwrittenError
            self.add_leaf(operand, share, serial)
        elif isinstance(operand, Unreduced):
            _, each = self.computed.setdefault(id(operand), (operand, operand.compute()))
            assert not isinstance(share, Placed)
            self.add_leaf(each, share * operand.scale(each), serial)
        else:
            assert not isinstance(share, Placed)
            whole = share.detach().sum() if isinstance(share, Tensor) else share
            total = whole * float(operand) if whole != 0 else 0.0
            self._add_constant(torch.as_tensor(total, dtype=torch.float64), serial)

    def add_leaf(self, leaf: Tensor, share: Share, serial: int) -> None:
        """Add to the weight of a cost, or to the constant."""
        if provenance(leaf) is None:
            plain = untrack(leaf)
            if isinstance(share, Placed):
                plain, share = share.part(plain), share.weight
            if isinstance(share, Tensor):  # what is left out may be infinite
                plain = plain.where(share.detach() != 0, 0)
            self._add_constant((plain * share).sum(), serial)
            return
        known = self.leaves.get(id(leaf))
        if known is None:
            known = self.leaves[id(leaf)] = Pending(leaf)
        known.add(share)

    def _add_constant(self, live: Tensor, serial: int) -> None:
        self.constant += float(live.detach())
        self.constants.append(Constant(serial, live))

    def step(self) -> Step:
        """Take the newest form apart."""
        pending = self.forms.pop(heapq.heappop(self.heap)[1])
        form, weight = pending.operand, pending.total
        if len(form) == 5 and any(version_of(held) != v for held, v in form[3].versions):
            raise OverwrittenError
        shares = tuple(form[1](weight))
        for operand, share in zip(reversed(form[2]), reversed(shares), strict=True):
            self.visit(operand, share, form[0])
        return Step(form, weight, shares)


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
