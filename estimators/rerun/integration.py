"""Integration over the ways in which draws can come out, to an error that is asked for.

The range of each continuous number is cut into panels. On each, the rule of Kronrod is compared
with that of Gauss within it, and where they differ most, the panel is halved, so that kinks and
narrow peaks end up in narrow panels. Where the difference does not fall as it does for a function
with derivatives, as much is allowed for as a step of the values met there may be off by. As
Piessens et al. (1983), "QUADPACK", but for a number after the other, after finite choices.

>>> from ancestral.estimators.rerun.quadrature import NORMAL
>>> class Standard(torch.distributions.Distribution):
...     arg_constraints, measure = {}, NORMAL
>>> def run(chance):
...     return chance.draw(Standard(validate_args=False))
>>> found = integrated(run, lambda z: ((z > 0.5).double().reshape(1), 0), wanted=1e-6, most=2000)
>>> print(f"{float(found.value):.5f}", bool(found.error < 1e-6))
0.30854 True
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ancestral.estimators.rerun.outcomes import Outcomes, TooManyOutcomesError
from ancestral.estimators.rerun.quadrature import Measure, kronrod

T = TypeVar("T")
_PANELS = 5  # of the range of a number that is the only one
_SMOOTH = 1 / 16  # of the difference of a panel, what that of its half has at most
_ROUNDED = 1e-12  # of the values, what is rounding
_NARROWEST = 1e-13


@dataclass(frozen=True, eq=False)
class Integral(Generic[T]):
    """An integral, its error, [n] each, and the ways that it is a sum over, with their weights."""

    value: Tensor
    error: Tensor
    ways: list[tuple[float, T]]


@dataclass(eq=False)
class _Leaf(Generic[T]):
    """A way: its density, what it gave, what is integrated of that, [n], and its error."""

    weight: float
    result: T
    value: Tensor
    error: Tensor | float


@dataclass(eq=False)
class _Panel(Generic[T]):
    """An interval of a coordinate, with the ways through each node.

    Attributes:
        low: where it begins.
        high: where it ends.
        nodes: the ways.
        least: what its error is at least, by the panel that it is a half of, [n].
        before: the difference of the rules on that, [n].
        difference: that on this, [n].
        share: its part of the error of the whole.
        total: its integral.
    """

    low: float
    high: float
    nodes: list["_Tree[T]"]
    least: Tensor | float = 0.0
    before: Tensor | float = torch.inf
    difference: Tensor = field(default_factory=lambda: torch.zeros(()))
    share: float = 0.0
    total: Tensor = field(default_factory=lambda: torch.zeros(()))

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2


@dataclass(eq=False)
class _Split(Generic[T]):
    """The ways after some choices: by the outcome of the next, or by the panel of a coordinate."""

    chosen: tuple[float, ...]
    outcomes: list["_Tree[T]"]
    panels: list[_Panel[T]]


_Tree = _Leaf[T] | _Split[T]


def integrated(
    run: Callable[[Outcomes], T],
    of: Callable[[T], tuple[Tensor, Tensor | float]],
    *,
    wanted: float,
    most: int,
    kind: Callable[..., Outcomes] = Outcomes,
) -> Integral[T]:
    """Return the mean of what a function returns of the ways in which draws can come out.

    Args:
        run: the function.
        of: returns for a result the numbers to integrate, [n], and by how much they may be off.
        wanted: the error that is asked for; if more than `most` ways are needed, it is larger.
        most: how many ways there may be.
        kind: makes the outcomes.

    Raises:
        TooManyOutcomesError: if there are more even for the first panels.
        NotEnumerableError: if a draw has no outcomes that can be enumerated.
    """
    grown = _Grown(run, of, most, kind)
    root = grown.after(())
    while True:
        value, error = _total(root, 1.0)
        panels = sorted(_panels(root), key=lambda pair: -pair[1].share)
        worst = panels[0][1].share if panels else 0.0
        is_halved = False
        for split, panel in panels if float(error.max()) > wanted and worst > 0 else []:
            if panel.share < worst / 4 or grown.count + 2 * _size(panel) > most:
                break
            if panel.half > _NARROWEST:
                grown.halve(split, panel)
                is_halved = True
        if not is_halved:
            return Integral(value, error, [*_ways(root, 1.0)])


class _Grown(Generic[T]):
    """The ways that were run."""

    def __init__(
        self,
        run: Callable[[Outcomes], T],
        of: Callable[[T], tuple[Tensor, Tensor | float]],
        most: int,
        kind: Callable[..., Outcomes],
    ) -> None:
        self._run, self._of, self._most, self._kind = run, of, most, kind
        self.count, self._panels = 0, 0

    def after(self, chosen: tuple[float, ...]) -> _Tree[T]:
        """Return the ways that begin with some choices."""
        if self.count >= self._most:
            raise TooManyOutcomesError.of(self._most)
        self.count += 1
        outcomes = self._kind(chosen, 0)
        result = self._run(outcomes)
        if not self._panels:
            self._panels = self._begun(outcomes)
        tree: _Tree[T] = _Leaf(outcomes.weight, result, *self._of(result))
        for at in reversed(range(len(chosen), len(outcomes.taken))):
            choice, before = outcomes.choices[at], (*chosen, *outcomes.taken[len(chosen) : at])
            if isinstance(choice, Measure):
                tree = self._cut(before, choice, tree)
            elif choice > 1:
                others = [self.after((*before, number)) for number in range(1, choice)]
                tree = _Split(before, [tree, *others], [])
        return tree

    def _begun(self, outcomes: Outcomes) -> int:
        """Return into how many panels each range is cut at first."""
        numbers = sum(isinstance(choice, Measure) for choice in outcomes.choices)
        panels = _PANELS if numbers == 1 else 1
        nodes = (panels * len(kronrod()[0])) ** numbers
        if numbers and outcomes.expected * nodes > self._most:
            raise TooManyOutcomesError.of(self._most)
        return panels

    def _cut(self, before: tuple[float, ...], whole: Measure, middle: _Tree[T]) -> _Tree[T]:
        """Return the ways by the panels of a coordinate, given those through its middle."""
        edges = torch.linspace(whole.low, whole.high, self._panels + 1, dtype=torch.double)
        bounds = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        panels = [
            self._panel(before, *each, middle if number == self._panels // 2 else None)
            for number, each in enumerate(bounds)
        ]
        return _Split(before, [], panels)

    def _panel(
        self, before: tuple[float, ...], low: float, high: float, middle: _Tree[T] | None = None
    ) -> _Panel[T]:
        places = kronrod()[0].tolist()
        nodes = [
            middle
            if middle is not None and number == len(places) // 2
            else self.after((*before, (low + high) / 2 + (high - low) / 2 * place))
            for number, place in enumerate(places)
        ]
        return _Panel(low, high, nodes)

    def halve(self, split: _Split[T], panel: _Panel[T]) -> None:
        """Put the halves of a panel in its place."""
        middle = (panel.low + panel.high) / 2
        halves = [
            self._panel(split.chosen, low, high)
            for low, high in ((panel.low, middle), (middle, panel.high))
        ]
        off = (panel.total - sum(_total(_Split((), [], [half]), 1.0)[0] for half in halves)).abs()
        both = halves[0].difference + halves[1].difference
        for half in halves:  # in proportion: mostly where the step or kink is
            share = (half.difference / both).where(both > 0, 0.5)
            half.least, half.before = off * share, panel.difference
        at = split.panels.index(panel)
        split.panels[at : at + 1] = halves


def _total(tree: _Tree[T], factor: float) -> tuple[Tensor, Tensor]:
    """Return the integral over some ways and its error, [n], and note what each panel has of it.

    Args:
        tree: the ways.
        factor: what they weigh in the whole.
    """
    if isinstance(tree, _Leaf):
        return tree.weight * tree.value, tree.weight * (tree.error + torch.zeros_like(tree.value))
    parts = [_total(each, factor) for each in tree.outcomes]
    parts += [_over(panel, factor) for panel in tree.panels]
    return torch.stack([p[0] for p in parts]).sum(0), torch.stack([p[1] for p in parts]).sum(0)


def _over(panel: _Panel[T], factor: float) -> tuple[Tensor, Tensor]:
    _, plain, other = kronrod()
    weights, gauss = panel.half * plain, panel.half * other
    found = [
        _total(node, factor * float(weight))
        for node, weight in zip(panel.nodes, weights, strict=True)
    ]
    values = torch.stack([value for value, _ in found])  # [nodes, n]
    inner = torch.stack([error for _, error in found])
    weights, gauss = weights.to(values), gauss.to(values)
    panel.total = weights @ values
    off = panel.difference = ((weights - gauss) @ values).abs()
    is_rough = (off > _SMOOTH * panel.before) & (off > _ROUNDED * (weights @ values.abs()))
    step = panel.half / 4 * (values.amax(0) - values.amin(0))
    off = torch.maximum(off, step.where(is_rough, 0.0))
    off = torch.maximum(off, torch.as_tensor(panel.least).to(off))
    panel.share = factor * float(off.max())
    return panel.total, off + weights @ inner


def _panels(tree: _Tree[T]) -> Iterator[tuple[_Split[T], _Panel[T]]]:
    if isinstance(tree, _Split):
        for each in tree.outcomes:
            yield from _panels(each)
        for panel in tree.panels:
            yield tree, panel
            for node in panel.nodes:
                yield from _panels(node)


def _size(panel: _Panel[T]) -> int:
    """Return over how many ways a panel is a sum."""
    return sum(len([*_ways(node, 1.0)]) for node in panel.nodes)


def _ways(tree: _Tree[T], factor: float) -> Iterator[tuple[float, T]]:
    """Yield the ways, with their weights in the whole."""
    if isinstance(tree, _Leaf):
        yield factor * tree.weight, tree.result
        return
    for each in tree.outcomes:
        yield from _ways(each, factor)
    for panel in tree.panels:
        for node, weight in zip(panel.nodes, kronrod()[1].tolist(), strict=True):
            yield from _ways(node, factor * panel.half * weight)
