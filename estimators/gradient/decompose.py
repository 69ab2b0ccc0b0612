"""Decomposition of a loss: the walk over its linear forms down to the costs.

Forms are met newest first, so that the weight of each is complete before it is turned into those
of its operands by the adjoint of its step. What has no form is a leaf: a cost, or a constant.
"""

import heapq
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ancestral.provenance.dispatch.linear_forms import resolve, written_since
from ancestral.provenance.linear.loss_functions import Unreduced
from ancestral.provenance.linear.transpose import exact, name_of, value_of
from ancestral.provenance.tensor.linear_form import (
    Form,
    Operand,
    OverwrittenError,
    Placed,
    Share,
    Weight,
    made_of,
    version_of,
)
from ancestral.provenance.tensor.tensor import provenance, raw, untrack
from ancestral.provenance.tensor.torch_internals import detach, runs_ahead
from ancestral.trace.recording.trace import Trace


class Constant(NamedTuple):
    """What a linear form, of this number, added to a loss that depends on no source: [].

    The number is -1 where it is the loss itself.
    """

    serial: int
    live: Tensor


Step = tuple[Form, Weight, Sequence[Share]]
"""One form that was taken apart, its weight, and what its operands got."""


class Pending:
    """The weight of an operand, as far as it is known."""

    __slots__ = ("operand", "parts", "weight")

    def __init__(self, operand: Any, share: Share) -> None:
        self.operand = operand
        self.weight: Weight | None = None
        self.parts: Tensor | None = None  # weights of parts, put together
        if isinstance(share, Placed):
            self.add(share)
        else:
            self.weight = share

    def add(self, share: Share) -> None:
        """Add the share of a further use."""
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
        self.heap: list[int] = []  # minus the numbers of the forms
        self.forms: dict[int, Pending] = {}
        self.leaves: dict[int, Pending] = {}
        self.computed: dict[int, tuple[Unreduced, Tensor]] = {}
        self.constants: list[Constant] = []

    @property
    def constant(self) -> float:
        """The sum of the constants, for which their devices are waited for."""
        return sum([float(detach(each.live)) for each in self.constants], 0.0)

    def run(self, loss: Tensor | Form, weight: Weight) -> None:
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
            key = -operand[0]
            known = self.forms.get(key)
            if known is None:
                heapq.heappush(self.heap, key)
                self.forms[key] = Pending(operand, share)
            else:
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
            whole = detach(share).sum() if isinstance(share, Tensor) else share
            if isinstance(whole, Tensor) and runs_ahead(whole):
                live = (whole.double() * float(operand)).where(whole != 0, 0)
                self.constants.append(Constant(serial, live))
            elif whole != 0 and operand != 0:
                live = torch.as_tensor(whole * float(operand), dtype=torch.float64)
                self.constants.append(Constant(serial, live))

    def add_leaf(self, leaf: Tensor, share: Share, serial: int) -> None:
        """Add to the weight of a cost, or to the constant."""
        if provenance(leaf) is None:
            plain = exact(untrack(leaf))
            if isinstance(share, Placed):
                plain, share = share.part(plain), share.weight
            if isinstance(share, Tensor):  # what is left out may be infinite
                plain = plain.where(detach(share) != 0, 0)
            self.constants.append(Constant(serial, (plain * share).sum()))
            return
        known = self.leaves.get(id(leaf))
        if known is None:
            self.leaves[id(leaf)] = Pending(leaf, share)
        else:
            known.add(share)

    def step(self) -> Step:
        """Take the newest form apart."""
        pending = self.forms.pop(heapq.heappop(self.heap))
        form: Form = pending.operand
        weight: Any = pending.weight if pending.parts is None else pending.total
        if len(form) == 5:
            operands: tuple[Operand, ...] = form[2]
            for held, version in form[3].versions:
                if version_of(held) != version:
                    raise OverwrittenError
        else:
            operands = form[2:]
        shares = form[1](weight)
        if len(shares) == 1 == len(operands):
            self.visit(operands[0], shares[0], form[0])
        else:
            for operand, share in zip(reversed(operands), reversed(shares), strict=True):
                self.visit(operand, share, form[0])
        return form, weight, shares


class Blame(NamedTuple):
    """What was taken apart wrong: the op, its shape, its sources; None if all is right.

    `size` is the largest sum of sizes on the way, to which rounding errors are relative, and
    `tensors` are those that were added or multiplied with, whose types tell how it was rounded.
    """

    text: str | None
    size: float
    tensors: list[Tensor]


def blamed(loss: Tensor, weight: Weight) -> Blame:
    """Return the first step that does not add up, and the size of what was added."""
    walk = Walk()
    walk.visit(resolve(loss), weight, -1)
    steps: list[Step] = []
    while walk.heap:
        steps.append(walk.step())
    known: dict[int, Tensor] = {}
    largest = 0.0
    tensors = [x for form, _, _ in steps for x in _tensors_of(form)]
    for form, share_of_form, shares in sorted(steps, key=lambda step: step[0][0]):
        operands = [
            known[id(x)] if x.__class__ is tuple else _value(x, walk.computed)
            for x in made_of(form)
        ]
        value = known[id(form)] = value_of(form, operands)
        given = _weighted(share_of_form, value)
        got = [_weighted(share, x) for share, x in zip(shares, operands, strict=True)]
        largest = max(largest, sum(float(part.abs().sum()) for part in (given, *got)))
        if not abs(float(given.sum()) - sum(float(part.sum()) for part in got)) <= 1e-6 * largest:
            sources = ", ".join(sorted(set(_sources(form)))) or "no site"
            shape = list(value.shape)
            text = f"{name_of(form)}, of shape {shape}, depending on {sources},"
            return Blame(text, largest, tensors)
    return Blame(None, largest, tensors)


def _tensors_of(form: Form) -> Iterator[Tensor]:
    """Yield the tensors that a form was made of, constants included."""
    if len(form) == 5:
        constants: Any = [held for held, _ in form[3].versions]
    else:
        constants = getattr(form[1], "args", ())
    return (x for x in (*made_of(form), *constants) if isinstance(x, Tensor))


def _value(operand: Any, computed: dict[int, tuple[Unreduced, Tensor]]) -> Tensor:
    """Return the value of a leaf in double precision."""
    if isinstance(operand, Unreduced):
        _, each = computed[id(operand)]
        return _value(each, computed) * operand.scale(each)
    plain = raw(detach, operand) if isinstance(operand, Tensor) else float(operand)
    return torch.as_tensor(plain, dtype=torch.float64)


def _weighted(share: Share, value: Tensor) -> Tensor:
    if isinstance(share, Placed):
        value, share = share.part(value), share.weight
    return detach(value) * (detach(share) if isinstance(share, Tensor) else share)


def _sources(form: Form) -> Iterator[str]:
    """Yield the sources of all that a form was made of, with the lines where they were drawn."""
    walk = Walk()
    walk.run(form, 1.0)
    for leaf in walk.leaves.values():
        known = provenance(leaf.operand)
        assert known is not None
        owner = known.universe.owner
        for source in known.sources:
            node = owner.get(source.name) if isinstance(owner, Trace) else None
            yield repr(source.name) + (f" ({node.location})" if node else "")
