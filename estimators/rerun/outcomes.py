"""Outcomes: every way in which the draws of a run can come out, each with its probability.

The draws are decided one after the other, element by element: finite ones take each of their
values, counts without a bound all but a tail of probability 1e-13, and continuous ones the nodes of
a quadrature: of Gaussian rules (`walked`), or of panels that are halved where it errs
(`integrated` in `integration`). What a run draws after a choice is found by running it.

>>> from torch.distributions import Bernoulli
>>> found = walked(lambda chance: chance.draw(Bernoulli(torch.tensor([0.5, 0.2]))).tolist())
>>> [(round(weight, 2), value) for weight, value in found]
[(0.4, [0.0, 0.0]), (0.1, [0.0, 1.0]), (0.4, [1.0, 0.0]), (0.1, [1.0, 1.0])]
"""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.distributions import Distribution, Geometric, Poisson

from ancestral.estimators.rerun.quadrature import Measure, measures_of, moved
from ancestral.estimators.rerun.streams import Coupling, refuse_uncoupled
from ancestral.provenance.tensor.tensor import raw, untrack
from ancestral.trace.context.argument_checks import first_of
from ancestral.trace.context.errors import SiteError
from ancestral.trace.nodes.distribution_params import factorized, parameters
from ancestral.trace.nodes.support import is_discrete
from ancestral.trace.recording.message import Message

T = TypeVar("T")
MOST, NODES = 4096, 16
_LAST, _TAIL, _MOST_COUNTS = 1e-16, 1e-13, 10_000
_MISSED = 1e-3  # of a probability, by the rounding of the densities
_ROUNDING = 1.05  # times epsilon: what torch leaves of no probability, by which none is drawn


class TooManyOutcomesError(ValueError):
    """A program has more outcomes than are to be enumerated."""

    @classmethod
    def of(cls, most: int) -> "TooManyOutcomesError":
        """Return the error, with what to do."""
        return cls(
            f"there are more than {most} outcomes of the draws of the program, of the noise of its "
            "estimators and of the runs that they ask for; take fewer elements or sites, or allow "
            "more outcomes"
        )


class NotEnumerableError(SiteError):
    """The outcomes of a draw cannot be enumerated."""


@dataclass
class Outcomes:
    """One way in which the draws of a run come out.

    Attributes:
        chosen: the number of the outcome of each of the first choices, or its coordinate; the rest
            takes the first, or the middle.
        nodes: of how many nodes a quadrature has; 0 for coordinates.
        taken: the number of the outcome of each choice, or its coordinate.
        choices: how many outcomes each has, or of what it is a coordinate.
        weight: the probability of the way, or its density by the coordinates.
        numbers: how many continuous numbers were met.
        is_aligned: whether noise outside of sites is the same; there is none.
        couplings: returns for a message how the elements of its site are drawn together, or None.
    """

    chosen: tuple[float, ...] = ()
    nodes: int = NODES
    taken: list[float] = field(default_factory=list[float])
    choices: list[int | Measure] = field(default_factory=list[int | Measure])
    weight: float = 1.0
    numbers: int = 0
    is_aligned: bool = True
    couplings: Callable[[Any], Coupling | None] | None = None

    @contextmanager
    def run(self) -> Generator[None]:
        """Do nothing around a run: nothing random is left in it."""
        yield

    def fresh(self) -> "Outcomes":
        """Return itself: each choice of another run is one more."""
        return self

    def process(self, message: Message, *, is_first: bool) -> Message:
        """Let the outcome be what is drawn."""
        return replace(message, sampler=lambda: self._of_site(message))

    def postprocess(self, message: Message) -> None:
        """Do nothing."""

    def draw(self, fn: Distribution) -> Tensor:
        """Return the outcome of a draw of no site."""
        return self._elements(fn, is_reparameterized=False, where="an estimator's noise")

    def _of_site(self, message: Message) -> Tensor:
        assert message.fn is not None
        where = f"site {message.name!r} ({message.where.location})"
        how = None if self.couplings is None else self.couplings(message)
        inner = factorized(message.fn)
        if how is not None:
            refuse_uncoupled(inner, how, where)
        return self._elements(
            inner,
            is_reparameterized=message.is_reparameterized,
            where=where,
            how=how,
        )

    def _elements(
        self, fn: Any, *, is_reparameterized: bool, where: str, how: Coupling | None = None
    ) -> Tensor:
        """Return the outcome of each element of a distribution, [*batch, *event]."""
        if not is_discrete(fn):
            found = self._placed(fn, how, where)
            return found if is_reparameterized else found.detach()
        values, weights = _finite(fn, where)
        batch = weights.shape[1:]
        count = batch.numel()
        numbers = [self._choose(row) for row in weights.reshape(len(weights), count).T.tolist()]
        chosen = torch.tensor(numbers, dtype=torch.long)
        flat = values.reshape(len(weights), count, *values.shape[1 + len(batch) :])
        picked = flat[chosen, torch.arange(count)]
        return picked.reshape(values.shape[1:])

    def _placed(self, fn: Any, how: Coupling | None, where: str) -> Tensor:
        """Return the outcome of each element of a continuous distribution, [*batch]."""
        measures = measures_of(fn, is_mirrored=how is not None)
        images = [None] * len(measures) if how is None else _partners(fn, how, where)
        at: list[float] = []
        points: list[float] = []
        for measure, image in zip(measures, images, strict=True):
            self.numbers += image is None
            if self.nodes:
                nodes, weights = measure.rule(self.nodes)
                mirrored = None if image is None else len(nodes) - 1 - at[image]
                number = self._choose(weights.tolist()) if mirrored is None else int(mirrored)
                at.append(number)
                points.append(float(nodes[number]))
            else:
                at.append(self._coordinate(measure) if image is None else -at[image])
                points.append(float(measure.point(torch.tensor(at[-1], dtype=torch.double))))
        plain = torch.tensor(points, dtype=torch.double).reshape(fn.batch_shape)
        try:
            return moved(fn, plain.to(_dtype(fn)), is_mirrored=how is not None)
        except NotImplementedError as error:
            raise NotEnumerableError(
                f"{where}: {type(fn).__name__} has no inverse distribution function (icdf), by "
                "which its outcomes would be enumerated"
            ) from error

    def _choose(self, weights: Sequence[float]) -> int:
        """Return the next outcome, given the probability of each."""
        possible = [number for number, weight in enumerate(weights) if weight > 0]
        index = int(self._next(0))
        self.choices.append(len(possible))
        self.weight *= weights[possible[index]]
        return possible[index]

    def _coordinate(self, measure: Measure) -> float:
        """Return the next coordinate."""
        t = self._next((measure.low + measure.high) / 2)
        self.choices.append(measure)
        self.weight *= float(measure.density(torch.tensor(t, dtype=torch.double)))
        return t

    def _next(self, default: float) -> float:
        at = len(self.taken)
        self.taken.append(self.chosen[at] if at < len(self.chosen) else default)
        return self.taken[at]

    @property
    def expected(self) -> int:
        """How many ways there are, if all have the choices of this one."""
        return math.prod(choice for choice in self.choices if isinstance(choice, int))

    @property
    def branches(self) -> list[tuple[float, ...]]:
        """The choices of the ways that part from this one after the chosen ones, last first."""
        return [
            (*self.taken[:at], other)
            for at, choice in enumerate(self.choices)
            if at >= len(self.chosen) and isinstance(choice, int)
            for other in reversed(range(1, choice))
        ]


def _partners(fn: Any, how: Coupling, where: str) -> list[int | None]:
    """Return for each element, [batch], of which one before it it is the mirror image, if it is."""
    batch = fn.batch_shape
    places = torch.arange(batch.numel()).reshape(batch).movedim(how.dim, 0)
    found: list[int | None] = [None] * batch.numel()
    try:
        images = [how.partner(index, len(places)) for index in range(len(places))]
    except NotImplementedError:
        images = [-1]
    if -1 in images:
        raise NotEnumerableError(
            f"{where}: the ways in which {how} draws {type(fn).__name__} are not enumerated"
        )
    for index, image in enumerate(images):
        if image is not None:
            pairs = zip(places[index].flatten(), places[image].flatten(), strict=True)
            for place, partner in pairs:
                found[int(place)] = int(partner)
    return found


def walked(
    run: Callable[[Outcomes], T],
    *,
    nodes: int = NODES,
    most: int = MOST,
    kind: Callable[..., Outcomes] = Outcomes,
) -> list[tuple[float, T]]:
    """Return what a function returns of each way in which draws can come out, with its probability.

    Raises:
        TooManyOutcomesError: if there are more than `most`.
        NotEnumerableError: if a draw has no outcomes that can be enumerated.
    """
    found: list[tuple[float, T]] = []
    pending: list[tuple[float, ...]] = [()]
    while pending:
        if len(found) + len(pending) > most:
            raise TooManyOutcomesError.of(most)
        outcomes = kind(pending.pop(), nodes)
        result = run(outcomes)
        found.append((outcomes.weight, result))
        pending.extend(outcomes.branches)
    return found


def _dtype(fn: Any) -> torch.dtype:
    """Return that of the parameters of a distribution."""
    found = (held.tensor.dtype for held in parameters(fn))
    return next((dtype for dtype in found if dtype.is_floating_point), torch.double)


def _epsilon(fn: Any) -> float:
    return torch.finfo(_dtype(fn)).eps


def _finite(fn: Any, where: str) -> tuple[Tensor, Tensor]:
    """Return the values of each element, [n, *batch, *event], and their probabilities."""
    is_count = isinstance(fn, (Poisson, Geometric))
    try:
        values = _counts(fn, where) if is_count else untrack(raw(fn.enumerate_support))
    except NotImplementedError as error:
        raise NotEnumerableError(
            f"{where}: {type(fn).__name__} does not list its values, so that its outcomes cannot "
            "be enumerated"
        ) from error
    with torch.no_grad():
        weights = untrack(raw(fn.log_prob, values)).exp().double()
    missed = missed_by(weights)
    if missed is not None:
        raise NotEnumerableError(
            f"{where}: the values that {type(fn).__name__} lists have probabilities that add up to "
            f"{missed}, not 1, so that its outcomes cannot be enumerated"
        )
    least = _LAST if is_count else _ROUNDING * _epsilon(fn)
    return values, weights.where(weights > least, 0)


def missed_by(weights: Tensor) -> str | None:
    """Return a sum of probabilities, [n, *batch], over n values that is not one, None for none."""
    total = weights.sum(0)
    wrong = ((total - 1).abs() <= _MISSED).logical_not()
    return first_of(total[wrong]) if bool(wrong.any()) else None


def _counts(fn: Any, where: str) -> Tensor:
    """Return the counts of each element, but for a tail."""
    batch = fn.batch_shape
    largest, step = 0, 32
    with torch.no_grad():
        while largest < _MOST_COUNTS:
            largest += step
            values = torch.arange(largest, dtype=torch.double)
            rows = values.reshape(-1, *(1,) * len(batch)).expand(-1, *batch)
            mass = untrack(raw(fn.log_prob, rows)).double().exp()
            left = (1 - mass.sum(0)).clamp(min=0)
            rest = _TAIL + 16 * _epsilon(fn)  # what rounding makes of the sum besides
            if bool((left <= rest).all()) and bool((mass[-1] <= _LAST).all()):
                return rows.to(_dtype(fn))
            step = largest
    raise NotEnumerableError(f"{where}: more than {_MOST_COUNTS} counts of it are likely")
