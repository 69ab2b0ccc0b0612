"""Routes: parts of a loss that hold different draws fixed, differentiated as one scalar.

        T = Σ_g T_g(⊥z_g, ·),   z_g the draws that part g holds fixed

A gate at a draw lets the whole gradient through, or none of it. Where one part is to pass and
another is not, what the first sends there is found beforehand, and goes on in place of the sum. For
a scalar that is differentiated later, and more than once, what the second would send there is taken
off, order by order, by its Taylor polynomial in the draws:

        T_g(⊥z, u) = T_g - ⟨∂T_g, δ⟩ + 1/2 ⟨∂²T_g, δδ⟩ - ...,   δ = z - ⊥z
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ancestral.trace.nodes.autograd_graph import step_of
from ancestral.trace.nodes.node import Gate, Node

_FLAT = frozenset("ceil floor round sign trunc".split())  # their derivative is zero

HIGHEST = 2
"""The highest derivatives of a surrogate whose parts hold different draws fixed."""


class DerivativeOrderError(NotImplementedError):
    """A derivative was asked for of an order that a surrogate does not have."""


class Gates(NamedTuple):
    """The draws that a scalar reaches, as bits: those that it holds fixed, and those it passes."""

    held: int
    passed: int

    def agrees(self, other: "Gates") -> bool:
        """Return whether no draw is held fixed by one and passed by the other."""
        return not (self.held & other.passed or self.passed & other.held)

    def union(self, other: "Gates") -> "Gates":
        """Return the draws of both."""
        return Gates(self.held | other.held, self.passed | other.passed)


class Reached:
    """The draws, of some, whose values autograd reaches: as bits, in the order of the draws.

    `leaf` is the bit of a leaf that is reached through none of them.
    """

    def __init__(self, draws: Sequence[Node]) -> None:
        """Take the draws, with a gate each."""
        self._draws = draws
        gates = {node.gate: number for number, node in enumerate(draws)}
        self._bits: dict[Any, int] = {
            (edge.node, edge.output_nr): 1 << gates[gate]
            for gate, edge in edges_of_gates(draws).items()
        }
        self._below: dict[Any, int] = {}
        self.leaf = 1 << len(draws)
        self._beyond = [0] * len(draws)
        for (made, _), bit in self._bits.items():
            self._beyond[bit.bit_length() - 1] = self._under(made)

    def by(self, tensors: Iterable[Tensor]) -> int:
        """Return what is reached from tensors, and not through another of the draws."""
        found = 0
        for tensor in tensors:
            if tensor.requires_grad:
                start = get_gradient_edge(tensor)
                bit = self._bits.get((start.node, start.output_nr))
                found |= self._under(start.node) if bit is None else bit
        return found

    def gates(self, found: int, fixed: int) -> Gates:
        """Return which draws are reached, through those that are not `fixed` too."""
        fresh = found & ~fixed & ~self.leaf
        seen = 0
        while fresh:
            seen |= fresh
            for number in numbers_of(fresh):
                found |= self._beyond[number]
            fresh = found & ~fixed & ~self.leaf & ~seen
        return Gates(found & fixed, seen)

    def draws(self, bits: int) -> frozenset[Node]:
        """Return the draws of some bits."""
        return frozenset(self._draws[number] for number in numbers_of(bits))

    def _under(self, start: Any) -> int:
        """Return what is reached from below a node of autograd's graph."""
        pending = [start]
        while pending:
            node = pending[-1]
            if node in self._below:
                pending.pop()
                continue
            edges: Any = () if step_of(node) in _FLAT else node.next_functions
            after = [edge for edge in edges if edge[0] is not None]
            wanted = [e[0] for e in after if e not in self._bits and e[0] not in self._below]
            if wanted:
                pending.extend(wanted)
                continue
            found = self.leaf if hasattr(node, "variable") else 0
            for edge in after:
                found |= self._bits[edge] if edge in self._bits else self._below[edge[0]]
            self._below[node] = found
        return self._below[start]


def numbers_of(bits: int) -> Iterator[int]:
    """Yield the numbers of the bits that are set."""
    while bits:
        lowest = bits & -bits
        yield lowest.bit_length() - 1
        bits ^= lowest


class Route(NamedTuple):
    """A scalar, the draws that it reaches and holds fixed, and the others that it reaches."""

    total: Tensor
    held: frozenset[Node]
    passed: frozenset[Node]


@contextmanager
def routed(routes: Sequence[Route]) -> Generator[None]:
    """Let one pass from the sum of all parts be the sum of the passes from each, in the block.

    A part is asked what it sends to those draws only that it passes and others hold fixed.
    """
    held = [edges_of_gates(route.held) for route in routes]
    edges = {gate: edge for each in held for gate, edge in each.items()}
    sent: dict[Gate, list[Tensor]] = {gate: [] for gate in edges}
    for route, shut in zip(routes, held, strict=True):
        asked = {
            n.gate: edges[n.gate] for n in route.passed if n.gate is not None and n.gate in edges
        }
        if asked:
            for gate, gradient in sent_to(route.total, asked, shut).items():
                sent[gate].append(gradient)
    for gate, gradients in sent.items():
        gate.is_shut = not gradients
        gate.instead = sum(gradients[1:], gradients[0]) if gradients else None
    try:
        yield
    finally:
        for gate in sent:
            gate.is_shut, gate.instead = bool(gate.is_kept), None


def keep(gated: Iterable[Node], shut: Collection[Node]) -> set[Node]:
    """Set the gates of draws for good; return those to be shut that stay open for an earlier one.

    Args:
        gated: the draws that reach a surrogate, with their gates shut if it holds them fixed.
        shut: more of them that it holds fixed.

    Raises:
        ValueError: if a surrogate before needs the gate of one shut that is to be open.
    """
    found: set[Node] = set()
    for node in gated:
        if node.gate is None:
            continue
        is_shut = node.gate.is_shut or node in shut
        if node.gate.is_kept is None:
            node.gate.is_kept = is_shut
        elif node.gate.is_kept and not is_shut:
            raise ValueError(
                f"an.surrogate of another loss of this recording was taken before, for which site "
                f"{node.name!r} ({node.location}) is scored, and pathwise for this one; take one "
                "surrogate of the sum of both, or pass estimator='score' here"
            )
        elif is_shut and not node.gate.is_kept:
            found.add(node)
        node.gate.is_shut = node.gate.is_kept
    return found


def holding(tensors: Sequence[Tensor], draws: Collection[Node]) -> list[Tensor]:
    """Return tensors whose derivatives are those with the values of some draws held fixed.

        S_n = S_(n-1) - 1/n ⟨∂S_(n-1), δ⟩,   S_0 = Σ ⟨v, T⟩,   T_n = ∂S_n / ∂v

    What is left of S_n has a derivative of order n + 1 at least: see `limit`. All tensors share a
    pass for each order.
    """
    followed = [tensor for tensor in tensors if tensor.requires_grad]
    if not followed or not draws:
        return [*tensors]
    edges = edges_of_gates(draws)
    weights = [torch.ones_like(tensor).requires_grad_() for tensor in followed]
    total = sum((v * tensor).sum() for v, tensor in zip(weights, followed, strict=True))
    assert isinstance(total, Tensor)
    for order in range(1, HIGHEST + 1):
        slopes = sent_to(total, edges, edges, is_followed=True)
        for node in draws:
            slope = slopes.get(node.gate) if node.gate is not None else None
            if slope is not None:
                total = total - (slope * (node.value - node.value.detach())).sum() / order
    found = iter(torch.autograd.grad(total, weights, create_graph=True))
    return [next(found) if tensor.requires_grad else tensor for tensor in tensors]


def limit(draws: Collection[Node]) -> list[Tensor]:
    """Return zeros whose derivatives above the highest raise a DerivativeOrderError."""
    beyond: Any = Beyond.apply
    return [beyond(node.value, HIGHEST, _OF_SOME_TERMS).sum() for node in draws]


def sent_to(
    total: Tensor,
    edges: Mapping[Gate, GradientEdge],
    shut: Collection[Gate],
    *,
    is_followed: bool = False,
) -> dict[Gate, Tensor]:
    """Return what a pass from a scalar sends to gates, of which some are shut meanwhile.

    If it `is_followed`, that has derivatives itself. A gate is the first to see it: the hooks of
    the user come after, in the pass that counts.
    """
    before = [(gate, gate.is_shut) for gate in shut]
    _shut(shut)
    for gate in edges:
        gate.came = []
    try:
        torch.autograd.grad(
            total,
            list(edges.values()),
            retain_graph=True,
            create_graph=is_followed,
            allow_unused=True,
        )
        return {gate: gate.came[0] for gate in edges if gate.came}
    finally:
        for gate, was_shut in before:
            gate.is_shut = was_shut
        for gate in edges:
            gate.came = None


def _shut(gates: Iterable[Gate]) -> None:
    for gate in gates:
        gate.is_shut = True


def edges_of_gates(nodes: Iterable[Node]) -> dict[Gate, GradientEdge]:
    """Return the gates of values, and the edges of autograd's graph that they hang on."""
    found: dict[Gate, GradientEdge] = {}
    for node in nodes:
        if node.gate is not None and node.value.grad_fn is not None:
            # The value that a node keeps is an alias of what the gate was hung on.
            made, number = node.value.grad_fn.next_functions[0]
            assert made is not None
            found[node.gate] = GradientEdge(made, number)
    return found


class Beyond(torch.autograd.Function):
    """Zeros whose derivatives are zero up to an order, and an error beyond, which says a text."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, left: int, text: str) -> Tensor:
        """Return zeros of the shape of a value."""
        ctx.save_for_backward(value)
        ctx.left, ctx.text = left, text
        return torch.zeros_like(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return zeros once more, or raise a `DerivativeOrderError` where no order is left."""
        if not ctx.left:
            raise DerivativeOrderError(ctx.text)
        (value,) = ctx.saved_tensors
        return Beyond.apply(value, ctx.left - 1, ctx.text), None, None  # type: ignore[no-untyped-call]


_OF_SOME_TERMS = (
    "some terms of the loss depend on a draw of rsample by smooth routes only, others "
    "by a step without a useful derivative: such a surrogate has derivatives up to "
    f"order {HIGHEST}, and a higher one was asked for; pass estimator='score' to "
    "an.surrogate, whose derivatives of all orders are right"
)
