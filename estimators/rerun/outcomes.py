"""Outcomes: every way in which the draws of a run can come out, each with its probability.

The draws are decided one after the other, element by element: finite ones take each of their
values, counts without a bound all but a tail of probability 1e-13, and continuous ones the nodes of
a Gaussian quadrature. What a run draws after a choice is found by running it.

>>> from torch.distributions import Bernoulli
>>> found = walked(lambda chance: chance.draw(Bernoulli(torch.tensor([0.5, 0.2]))).tolist())
>>> [(round(weight, 2), value) for weight, value in found]
[(0.4, [0.0, 0.0]), (0.1, [0.0, 1.0]), (0.4, [1.0, 0.0]), (0.1, [1.0, 1.0])]
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import (
    Distribution,
    Exponential,
    Gamma,
    Geometric,
    Normal,
    Poisson,
)

from ancestral.estimators.rerun.streams import Coupling
from ancestral.provenance.tensor.tensor import raw, untrack
from ancestral.provenance.tensor.torch_internals import standard_gamma_grad
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
        chosen: the number of the outcome of each of the first choices; the rest takes the first.
        nodes: of how many nodes a quadrature has.
        taken: the number of the outcome of each choice.
        counts: how many outcomes each choice has.
        weight: the probability of the way.
        is_exact: whether no continuous draw was met.
        is_aligned: whether noise outside of sites is the same; there is none.
        couplings: returns for a message how the elements of its site are drawn together, or None.
    """

    chosen: tuple[int, ...] = ()
    nodes: int = NODES
    taken: list[int] = field(default_factory=list[int])
    counts: list[int] = field(default_factory=list[int])
    weight: float = 1.0
    is_exact: bool = True
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
        return self._elements(
            factorized(message.fn),
            is_reparameterized=message.is_reparameterized,
            where=where,
            how=how,
        )

    def _elements(
        self, fn: Any, *, is_reparameterized: bool, where: str, how: Coupling | None = None
    ) -> Tensor:
        """Return the outcome of each element of a distribution, [*batch, *event]."""
        if is_discrete(fn):
            values, weights = _finite(fn, where)
        else:
            values, weights = _quadrature(fn, self.nodes, where)
            values = values if is_reparameterized else values.detach()
            self.is_exact = False
        batch = weights.shape[1:]
        count = batch.numel()
        table = weights.reshape(len(weights), count).T.tolist()
        partners = [None] * count if how is None else _partners(fn, how, where)
        numbers: list[int] = []
        for row, partner in zip(table, partners, strict=True):
            numbers.append(
                self._choose(row) if partner is None else len(row) - 1 - numbers[partner]
            )
        chosen = torch.tensor(numbers, dtype=torch.long)
        flat = values.reshape(len(weights), count, *values.shape[1 + len(batch) :])
        picked = flat[chosen, torch.arange(count)]
        return picked.reshape(values.shape[1:])

    def _choose(self, weights: Sequence[float]) -> int:
        """Return the next outcome, given the probability of each."""
        possible = [number for number, weight in enumerate(weights) if weight > 0]
        at = len(self.taken)
        index = self.chosen[at] if at < len(self.chosen) else 0
        self.taken.append(index)
        self.counts.append(len(possible))
        self.weight *= weights[possible[index]]
        return possible[index]

    @property
    def branches(self) -> list[tuple[int, ...]]:
        """The choices of the ways that part from this one after the chosen ones, last first."""
        return [
            (*self.taken[:at], other)
            for at in range(len(self.chosen), len(self.taken))
            for other in reversed(range(1, self.counts[at]))
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
    if -1 in images or type(fn) in (Exponential, Gamma):  # whose nodes are not symmetric
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
    pending: list[tuple[int, ...]] = [()]
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


def _quadrature(fn: Any, nodes: int, where: str) -> tuple[Tensor, Tensor]:
    """Return the nodes of each element, [n, *batch], differentiable, and their weights."""
    batch = fn.batch_shape
    dtype = _dtype(fn)
    shape = (-1, *(1,) * len(batch))
    rules: dict[Any, Any] = {Normal: _hermite, Exponential: _laguerre}
    if type(fn) is Gamma:
        return _of_gamma(fn, nodes)
    is_given = hasattr(fn, "quadrature")
    points, weights = fn.quadrature(nodes) if is_given else rules.get(type(fn), _legendre)(nodes)
    at = points.to(dtype).reshape(shape).expand(-1, *batch)
    weights = weights.reshape(shape).expand(-1, *batch)
    if is_given:
        return at, weights
    if type(fn) is Normal:
        return untrack(fn.loc) + untrack(fn.scale) * at, weights
    if type(fn) is Exponential:
        return at / untrack(fn.rate), weights
    try:
        return untrack(raw(fn.icdf, at)), weights
    except NotImplementedError as error:
        raise NotEnumerableError(
            f"{where}: {type(fn).__name__} has no inverse distribution function (icdf), by which "
            "its outcomes would be enumerated"
        ) from error


def _of_gamma(fn: Any, nodes: int) -> tuple[Tensor, Tensor]:
    """Return the nodes of each element of a Gamma, by the generalized rule of Laguerre."""
    shape, rate = untrack(fn.concentration), untrack(fn.rate)
    plain = shape.detach().reshape(-1).tolist()
    rules = [_laguerre(nodes, each - 1) for each in plain]
    unit = torch.stack([x for x, _ in rules], -1).reshape(nodes, *shape.shape).to(shape)
    weights = torch.stack([w for _, w in rules], -1).reshape(nodes, *shape.shape)
    by_shape: Any = standard_gamma_grad(shape.detach().expand_as(unit), unit)
    return (unit + by_shape * (shape - shape.detach())) / rate, weights


@lru_cache(maxsize=64)
def _hermite(nodes: int) -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(points), torch.from_numpy(weights / weights.sum())


@lru_cache(maxsize=64)
def _legendre(nodes: int) -> tuple[Tensor, Tensor]:
    points, weights = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy((points + 1) / 2), torch.from_numpy(weights / 2)


@lru_cache(maxsize=64)
def _laguerre(nodes: int, power: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the rule for the density x^power exp(-x): Golub and Welsch (1969)."""
    k = np.arange(nodes)
    beside = np.sqrt(k[1:] * (k[1:] + power))
    matrix = np.diag(2 * k + power + 1) + np.diag(beside, 1) + np.diag(beside, -1)
    values, vectors = np.linalg.eigh(matrix)
    return torch.from_numpy(values), torch.from_numpy(vectors[0] ** 2)
