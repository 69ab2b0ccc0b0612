"""Random pairs of a model and a guide whose sites are enumerated, drawn and observed.

What is exact of them is written once more, with an axis for each element that is summed out.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import Categorical

import ancestral as an
from ancestral import handlers

PLATES = {"rows": (-1, 2), "columns": (-2, 2)}  # their dimensions, and how many are there
FIRST_DIM = -3
MOST_PATHS = 16
MOST_LISTED = 2000

Role = Literal["listed", "drawn", "summed", "observed"]
Cell = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Site:
    """A site of a pair.

    The guide has those that are `listed`, with all values at once, and those that are `drawn`; the
    model has all. It sums out what is `summed`.
    """

    name: str
    size: int
    plates: tuple[str, ...]
    role: Role
    guide_parents: tuple[str, ...]
    model_parents: tuple[str, ...]
    is_masked: bool
    weight: float

    @property
    def is_guided(self) -> bool:
        """Whether the guide has it."""
        return self.role in ("listed", "drawn")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its batch."""
        sizes = {dim: part for dim, part in (PLATES[plate] for plate in self.plates)}
        return tuple(sizes.get(-d, 1) for d in range(-min(sizes, default=0), 0, -1))

    def mask(self) -> Tensor:
        """Return which of its elements count."""
        return torch.arange(math.prod(self.shape)).reshape(self.shape) % 2 == 0

    def data(self) -> Tensor:
        """Return what is observed."""
        return torch.arange(math.prod(self.shape)).reshape(self.shape) % self.size


@dataclass(frozen=True)
class RandomPair:
    """Sites in order, the sizes of the plates, and the tables of both programs."""

    sites: tuple[Site, ...]
    whole: Mapping[str, int]  # of how many repetitions those of a plate are a part
    tables: tuple[Tensor, ...]  # of the model, then of the guide, by site

    def build(self, *tables: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """Return the model and the guide, as `an.infer.elbo` takes them."""
        count = len(self.sites)

        def program(is_model: bool) -> None:
            own = tables[:count] if is_model else tables[count:]
            values: dict[str, Tensor] = {}
            plates = {
                name: an.plate(name, self.whole[name], part, dim=dim)
                for name, (dim, part) in PLATES.items()
            }
            for site, table in zip(self.sites, own, strict=True):
                if is_model or site.is_guided:
                    values[site.name] = self._sampled(
                        site, table, values, plates, is_model=is_model
                    )

        enumerated = handlers.enumerate(first_dim=FIRST_DIM)
        return (
            lambda: handlers.enumerate(first_dim=FIRST_DIM)(program)(True),
            lambda: enumerated(program)(False),
        )

    @staticmethod
    def _sampled(
        site: Site,
        table: Tensor,
        values: dict[str, Tensor],
        plates: Mapping[str, an.plate],
        *,
        is_model: bool,
    ) -> Tensor:
        parents = site.model_parents if is_model else site.guide_parents
        fn = Categorical(logits=table[tuple(values[parent] for parent in parents)])
        with ExitStack() as around:
            for plate in site.plates:
                around.enter_context(plates[plate])
            if site.is_masked:
                around.enter_context(handlers.mask(site.mask()))
            if site.weight != 1:
                around.enter_context(handlers.scale(site.weight))
            obs = site.data() if site.role == "observed" else None
            return an.sample(site.name, fn, obs=obs, infer={"enumerate": site.role != "drawn"})

    def loss(self, *tables: Tensor) -> Tensor:
        """Return the negative bound of one run, with draws as plain torch makes them."""
        count = len(self.sites)
        drawn: dict[str, Tensor] = {}
        for site, table in zip(self.sites, tables[count:], strict=True):
            if site.role == "drawn":
                logits = table[tuple(drawn[parent] for parent in site.guide_parents)]
                fn = Categorical(logits=logits.expand(*site.shape, site.size))
                drawn[site.name] = fn.sample()
        axes = self._axes()
        q, log_q = self._joint(tables[count:], drawn, axes, is_model=False)
        log_p = self._joint(tables[:count], drawn, axes, is_model=True)[1]
        summed = [
            -1 - axis for (name, _), axis in axes.items() if self._site(name).role == "summed"
        ]
        log_p = log_p.logsumexp(summed, keepdim=True) if summed else log_p
        return (q.exp() * (log_q - log_p)).sum()

    def _site(self, name: str) -> Site:
        return next(site for site in self.sites if site.name == name)

    def _axes(self) -> dict[Cell, int]:
        cells = [
            (site.name, at)
            for site in self.sites
            if site.role in ("listed", "summed")
            for at in itertools.product(*(range(size) for size in site.shape))
        ]
        return {cell: axis for axis, cell in enumerate(cells)}

    def _joint(
        self,
        tables: Sequence[Tensor],
        drawn: Mapping[str, Tensor],
        axes: Mapping[Cell, int],
        *,
        is_model: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of what is listed, and the sum of all log-densities."""
        shape = [1] * len(axes)
        probability, total = torch.zeros(shape).double(), torch.zeros(shape).double()
        for site, table in zip(self.sites, tables, strict=True):
            if not (is_model or site.is_guided):
                continue
            parents = site.model_parents if is_model else site.guide_parents
            for at in itertools.product(*(range(size) for size in site.shape)):
                index = [self._value(parent, at, drawn, axes) for parent in parents]
                value = self._value(site.name, at, drawn, axes)
                log = table.log_softmax(-1)[(*index, value)]
                counts = math.prod(self.whole[p] / PLATES[p][1] for p in site.plates) * site.weight
                if site.role == "listed":
                    probability = probability + log
                if site.role == "summed" or not site.is_masked or site.mask()[at]:
                    total = total + counts * log
        return probability, total

    def _value(
        self, name: str, at: tuple[int, ...], drawn: Mapping[str, Tensor], axes: Mapping[Cell, int]
    ) -> Tensor:
        """Return the value of an element of a site, in the same repetitions as another's."""
        site = self._site(name)
        padded = (*(0,) * (2 - len(at)), *at)[2 - len(site.shape) :]
        place = tuple(n if size > 1 else 0 for n, size in zip(padded, site.shape, strict=True))
        if site.role == "observed":
            return site.data()[place]
        if site.role == "drawn":
            return drawn[name][place]
        return torch.arange(site.size).reshape(-1, *(1,) * axes[name, place])


def grown_pair(seed: int) -> RandomPair:
    """Return a random pair."""
    rng = Random(seed)
    is_thin = rng.random() < 0.3
    roles: list[Role] = ["listed", "listed", "drawn", "observed"]
    if not is_thin:
        roles.append("summed")
    sites: list[Site] = []
    paths = listed = 1
    for number in range(rng.randint(3, 5)):
        plates = rng.choice([(), ("rows",), ("columns",), ("rows", "columns")])
        role: Role = rng.choice(roles)
        size = rng.choice([2, 2, 3])
        values = size ** math.prod(PLATES[plate][1] for plate in plates)
        if role == "drawn" and paths * values > MOST_PATHS:
            role = "observed"
        if role in ("listed", "summed") and listed * values > MOST_LISTED:
            role = "observed"
        paths *= values if role == "drawn" else 1
        listed *= values if role in ("listed", "summed") else 1
        inside = [site for site in sites if set(site.plates) <= set(plates)]
        guided = [
            site.name
            for site in inside
            if site.role == "drawn" or (site.role == "listed" and role == "listed")
        ]
        sites.append(
            Site(
                f"s{number}",
                size,
                plates,
                role,
                tuple(rng.sample(guided, min(len(guided), rng.randint(0, 2)))),
                tuple(rng.sample([s.name for s in inside], min(len(inside), rng.randint(0, 2)))),
                is_masked=rng.random() < 0.3,
                weight=rng.choice([1.0, 0.3, 2.0]) if is_thin else 1.0,
            )
        )
    sizes = {site.name: site.size for site in sites}
    shapes = [[*(sizes[p] for p in s.model_parents), s.size] for s in sites]
    shapes += [[*(sizes[p] for p in s.guide_parents), s.size] for s in sites]
    tables = [
        torch.tensor([rng.gauss(0, 1) for _ in range(math.prod(shape))], dtype=torch.double)
        for shape in shapes
    ]
    return RandomPair(
        tuple(sites),
        {plate: part + int(is_thin) for plate, (_, part) in PLATES.items()},
        tuple(t.reshape(shape).requires_grad_() for t, shape in zip(tables, shapes, strict=True)),
    )
