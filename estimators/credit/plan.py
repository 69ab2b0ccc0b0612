"""Credit plan: which sums of costs each site is given, found once for a structure.

It is made of numbers only, and follows from the structure and the shapes of the costs alone, so
that it is kept with the structure, for all recordings that have it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from torch import Tensor

from ancestral.estimators.credit.cost_sums import (
    Filling,
    Reduction,
    Stacks,
    apart_dims,
    apart_through,
    filling,
    is_plain,
    put,
    reduction,
    room,
    spread,
)
from ancestral.provenance.algebra.alignment import Alignment, Shape, compose
from ancestral.trace.graph.reachability import Claims, TermSet, reaches
from ancestral.trace.graph.structure import Structure


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

    `moves` are from a bucket of the base, by what reduction, to one of the site. `is_counted` says
    that a cost may be in the sums of several elements.
    """

    keys: tuple[Key, ...]
    moves: tuple[tuple[int, Reduction, int], ...]
    taken: tuple[Taken, ...]
    buckets: tuple[Bucket, ...]
    is_counted: bool


class Site(NamedTuple):
    """The sums of one site: those of a child, moved along an edge, and those of further terms."""

    number: int
    base: int | None
    layout: Layout
    terms: tuple[TermSet, ...]


class Plan(NamedTuple):
    """The sums of the sites, each after its base, and those of which the sums are asked."""

    sites: tuple[Site, ...]
    needed: tuple[Site, ...]

    def sums(self, values: Sequence[Tensor]) -> dict[int, list[Tensor]]:
        """Return the sums in the buckets of each site, given the costs."""
        stacks, totals = Stacks(values), dict[tuple[Alignment, TermSet], Tensor]()
        found: dict[int, list[Tensor]] = {}
        for number, base, layout, terms in self.sites:
            sums: list[Tensor] = []
            if base is not None:
                known = found[base]
                for at, how, into in layout.moves:
                    _add(sums, into, how.of(known[at]))
            for at, claim, how, into in layout.taken:
                if terms[at].is_one:
                    _add(sums, into, how.of(values[terms[at].first]))
                else:
                    key = (claim, terms[at])
                    if key not in totals:
                        totals[key] = _sum(claim, stacks.sums(terms[at]))
                    _add(sums, into, totals[key])
            found[number] = sums
        return found


def _add(sums: list[Tensor], into: int, value: Tensor) -> None:
    if into == len(sums):
        sums.append(value)
    else:
        sums[into] = sums[into] + value


def _sum(claim: Alignment, costs: Sequence[Tensor]) -> Tensor:
    first, *rest = [reduction(claim, tuple(cost.shape)).of(cost) for cost in costs]
    return sum(rest, first)


def parts(site: Site, sums: Sequence[Tensor]) -> Iterator[tuple[Tensor, frozenset[int]]]:
    """Yield the sums of a site over its elements, and the dimensions along which each is apart."""
    placed: dict[tuple[frozenset[int], Shape], Tensor] = {}
    for bucket, found in zip(site.layout.buckets, sums, strict=True):
        total = bucket.filling.of(found)
        if bucket.is_placed:
            key = (bucket.apart, bucket.size)
            onto = placed.get(key)
            onto = total.new_zeros(bucket.size) if onto is None else onto
            placed[key] = put(total, bucket.filling.alignment, onto)
        else:
            yield total.reshape(bucket.size), bucket.apart
    for (apart, _), onto in placed.items():
        yield onto, apart


def plan_of(structure: Structure, values: Sequence[Tensor]) -> Plan:
    """Return the plan for a structure and costs of these shapes, kept with the structure."""
    shapes = tuple([tuple(value.shape) for value in values])
    if not {type(size) for shape in shapes for size in shape} <= {int}:  # symbols of the compiler's
        return _made(structure, shapes)
    found = structure.derived.get(shapes)
    if found is None:
        found = structure.derived[shapes] = _made(structure, shapes)
    assert isinstance(found, Plan)
    return found


def _made(structure: Structure, shapes: Sequence[Shape]) -> Plan:
    needed = [site.needs_score for site in structure.sites]
    found: dict[int, Site] = {}
    for number, closure, (base, edge, rest) in reaches(structure) if any(needed) else ():
        if closure:
            before = None if base is None else found[base].layout
            taken = tuple([(claims, shapes[terms.first]) for claims, terms in rest.items()])
            how = layout(before, edge, taken, structure.sites[number].shape)
            found[number] = Site(number, base, how, tuple(rest.values()))
    asked = tuple([found[number] for number in sorted(found) if needed[number]])
    for number in sorted(found):  # what others are built on is found after them
        base = found[number].base
        if base is not None and needed[number]:
            needed[base] = True
    return Plan(tuple([site for number, site in found.items() if needed[number]]), asked)


_FEW = 16
"""Sums of a site whose layout is kept: memory has a bound, whatever structures are met."""


def layout(
    base: Layout | None,
    edge: Alignment | None,
    taken: tuple[tuple[Claims, Shape], ...],
    shape: Shape,
) -> Layout:
    """Return how the sums of a site are made, the same for sites that are alike.

    Args:
        base: that of the child that it is built on.
        edge: how that child depends on the site.
        taken: how further terms depend on the site, with the shape of the first of them.
        shape: that of the site.
    """
    claims = sum([len(of_terms) for of_terms, _ in taken])
    is_small = claims + (0 if base is None else len(base.keys)) <= _FEW
    is_known = all(map(is_plain, (shape, *map(itemgetter(1), taken))))
    return (_kept if is_small and is_known else _laid_out)(base, edge, taken, shape)


def _laid_out(
    base: Layout | None,
    edge: Alignment | None,
    taken: tuple[tuple[Claims, Shape], ...],
    shape: Shape,
) -> Layout:
    builder = _Builder()
    if base is not None and edge is not None:
        builder.move(edge, base.keys)
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
        self.moves: list[tuple[int, Reduction, int]] = []
        self.taken: list[Taken] = []

    def move(self, edge: Alignment, known: Sequence[Key]) -> None:
        """Take the sums of the base, as they stand to the site."""
        for at, (alignment, apart, shape) in enumerate(known):
            step = compose(alignment, edge)
            if step is not None:
                how = reduction(step, shape)
                self.moves.append((at, how, self._into(how, apart_through(edge, apart))))

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
