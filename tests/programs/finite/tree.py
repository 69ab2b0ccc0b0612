"""Programs of finite sites as trees: sites, and blocks of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
Kind = Literal["bernoulli", "categorical", "onehot", "normal", "factor"]
Role = Literal["enumerated", "given", "observed", "partly"]


@dataclass(frozen=True)
class Site:
    """A site: what it is drawn from, by the values of its parents, and where its own come from.

    `parents` are names; "a@1" is site "a" of the step before, 0 in the first step. `own` are the
    plates for whose repetitions it has their own tables.
    """

    name: str
    kind: Kind
    size: int
    parents: tuple[str, ...]
    role: Role
    own: tuple[str, ...] = ()
    masked_by: str | None = None  # a site, where whose value is 0 it does not count


@dataclass(frozen=True)
class Block:
    """Statements within a plate, a loop, a scale or a mask."""

    kind: Literal["plate", "turns", "markov", "scale", "mask"]
    name: str
    body: tuple["Site | Block", ...]
    size: int = 1
    part: int = 1
    dim: int = 0
    history: int = 1
    which: tuple[str, ...] = ()  # the plates that a mask or a scale has dimensions for

    @property
    def is_thin(self) -> bool:
        """Whether it is a part that stands for a whole."""
        return self.part != self.size


Body = tuple[Site | Block, ...]


@dataclass(frozen=True)
class Program:
    """A tree of statements, with its tables, its data and its masks."""

    body: Body
    tables: Mapping[str, Tensor]
    hard: Mapping[str, Tensor]  # 0, or -inf where a value has no probability
    seed: int
    by_condition: bool = False

    def table(self, name: str) -> Tensor:
        """Return the logits of a site by repetitions and parents, [*own, *parents, size]."""
        return self.tables[name] + self.hard[name]

    def fixed(self, site: Site, instance: str, shape: Sequence[int]) -> Tensor:
        """Return the values of a site that is observed or given."""
        seeded = self._seeded(f"value {instance}")
        if site.kind == "normal":
            return torch.randn(tuple(shape), generator=seeded).double()
        return torch.randint(site.size, tuple(shape), generator=seeded)

    def seen(self, name: str, shape: Sequence[int]) -> Tensor:
        """Return a mask, or where a site is observed."""
        return torch.rand(tuple(shape), generator=self._seeded(f"seen {name}")) < 0.6

    def _seeded(self, text: str) -> torch.Generator:
        number = Random(f"{self.seed} {text}").randrange(2**31)
        return torch.Generator().manual_seed(number)


def sites(body: Body) -> Iterator[Site]:
    """Yield the sites of a tree."""
    for part in body:
        if isinstance(part, Site):
            yield part
        else:
            yield from sites(part.body)


def blocks(body: Body) -> Iterator[Block]:
    """Yield the blocks of a tree, each name once."""
    found: dict[str, Block] = {}
    for part in body:
        if isinstance(part, Block):
            found.setdefault(part.name, part)
            for inner in blocks(part.body):
                found.setdefault(inner.name, inner)
    yield from found.values()


def earlier(past: Sequence[Mapping[str, T]]) -> dict[str, T]:
    """Return the values of earlier steps, the last one first, by the names of sites in it."""
    return {f"{name}@{lag + 1}": v for lag, step in enumerate(past) for name, v in step.items()}
