"""Layout: how a site makes the sums of its costs, whichever these are; alike sites have one."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from ancestral.estimators.credit.cost_sums import (
    Filling,
    Reduction,
    apart_dims,
    apart_through,
    filling,
    is_plain,
    reduction,
    room,
    spread,
)
from ancestral.provenance.algebra.alignment import Alignment, Shape, compose
from ancestral.trace.graph.reachability import Claims


class Bucket(NamedTuple):
    """Costs that are apart along the same dimensions of a site, and how they stand to them.

    Along those of `apart` each cost lies downstream of one element of the site only. `size` is that
    of the sum with ones for the dimensions of the site that do not index it; where it is for some
    elements of the site only, that of the place where such sums are put together.
    """

    apart: frozenset[int]
    filling: Filling
    size: Shape
    is_shared: bool  # by several elements
    is_placed: bool  # for some elements of the site only


class Key(NamedTuple):
    """What tells the sums of a site apart: one bucket has those of one key."""

    alignment: Alignment
    apart: frozenset[int]
    shape: Shape  # of the first sum


class Taken(NamedTuple):
    """A sum of terms, by their place among the sets of terms that a site takes."""

    at: int
    claim: Alignment
    how: Reduction
    into: int  # which bucket it is added to


@dataclass(frozen=True, eq=False)
class Layout:
    """How sites that are alike make their sums, whatever their terms; there is one for all.

    `moves` are from a base, one of its buckets, by what reduction, to one of the site. `is_counted`
    says that a cost may be in the sums of several elements.
    """

    keys: tuple[Key, ...]
    moves: tuple[tuple[int, int, Reduction, int], ...]
    taken: tuple[Taken, ...]
    buckets: tuple[Bucket, ...]
    is_counted: bool


_FEW = 16
"""Sums of a site whose layout is kept: memory has a bound, whatever structures are met."""


def layout_of(
    bases: tuple[tuple[Layout, Alignment], ...],
    taken: tuple[tuple[Claims, Shape], ...],
    shape: Shape,
) -> Layout:
    """Return how the sums of a site are made, the same for sites that are alike.

    Args:
        bases: those of the children that it is built on, and how these depend on the site.
        taken: how further terms depend on the site, with the shape of the first of them.
        shape: that of the site.
    """
    size = sum([len(of_terms) for of_terms, _ in taken])
    size += sum([len(base.keys) for base, _ in bases])
    is_known = all(map(is_plain, (shape, *map(itemgetter(1), taken))))
    return (_kept if size <= _FEW and is_known else _laid_out)(bases, taken, shape)


def _laid_out(
    bases: tuple[tuple[Layout, Alignment], ...],
    taken: tuple[tuple[Claims, Shape], ...],
    shape: Shape,
) -> Layout:
    builder = _Builder()
    for which, (base, edge) in enumerate(bases):
        builder.move(which, edge, base.keys)
    for at, (claims, of_terms) in enumerate(taken):
        builder.take(at, claims, of_terms)
    buckets = tuple(_bucket(*key, shape) for key in builder.keys)
    is_counted = any(bucket.is_placed or bucket.is_shared for bucket in buckets)
    is_known = all(map(is_plain, (shape, *map(itemgetter(1), taken))))
    made = _one if len(builder.keys) <= _FEW and is_known else Layout
    return made(
        tuple(builder.keys), tuple(builder.moves), tuple(builder.taken), buckets, is_counted
    )


_kept = lru_cache(maxsize=8192)(_laid_out)
_one = lru_cache(maxsize=8192)(Layout)  # so that the sites of a chain are alike, at any length


class _Builder:
    """Finds the buckets of a site."""

    def __init__(self) -> None:
        self._places: dict[tuple[Alignment, frozenset[int]], int] = {}
        self.keys: list[Key] = []
        self.moves: list[tuple[int, int, Reduction, int]] = []
        self.taken: list[Taken] = []

    def move(self, which: int, edge: Alignment, known: Sequence[Key]) -> None:
        """Take the sums of a base, as they stand to the site."""
        for at, (alignment, apart, shape) in enumerate(known):
            step = compose(alignment, edge)
            if step is not None:
                how = reduction(step, shape)
                into = self._into(how, apart_through(edge, apart))
                self.moves.append((which, at, how, into))

    def take(self, at: int, claims: Claims, shape: Shape) -> None:
        """Take terms that depend on the site by these claims."""
        apart = apart_dims(claims)
        for claim in claims:
            how = reduction(claim, shape)
            self.taken.append(Taken(at, claim, how, self._into(how, apart)))

    def _into(self, how: Reduction, apart: frozenset[int]) -> int:
        key = (how.alignment, apart)
        if key not in self._places:
            self._places[key] = len(self.keys)
            self.keys.append(Key(*key, how.shape))
        return self._places[key]


def _bucket(alignment: Alignment, apart: frozenset[int], shape: Shape, site: Shape) -> Bucket:
    how = filling(alignment, shape)
    if how.alignment.there:
        return Bucket(apart, how, room(how.alignment, site), is_shared=True, is_placed=True)
    size = spread(how.alignment, site)
    is_shared = any(n > 1 and dim not in apart for dim, n in enumerate(size))
    return Bucket(apart, how, size, is_shared, is_placed=False)
