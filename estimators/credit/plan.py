"""Credit plan: which sums of costs each site is given, found once for a structure.

It is made of numbers only, and follows from the structure and the shapes of the costs alone, so
that it is kept with the structure, for all recordings that have it.
"""

from collections.abc import Iterator, Sequence
from operator import attrgetter
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
from ancestral.trace.graph.reachability import Reach, TermSet, reaches
from ancestral.trace.graph.structure import Structure


class Total(NamedTuple):
    """The sum of some terms that depend on a site by one claim; siblings share it."""

    claim: Alignment
    terms: TermSet
    shape: Shape  # of the first of the terms


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


class Site(NamedTuple):
    """The sums of one site: those of a child, moved along an edge, and those of further terms.

    Each is added to the bucket of the number that comes last.
    """

    number: int
    base: int | None
    moves: tuple[tuple[int, Reduction, int], ...]  # from a bucket of the base
    totals: tuple[tuple[Total, Reduction, int], ...]
    buckets: tuple[Bucket, ...]
    is_counted: bool  # whether a cost may be in the sums of several elements


class Plan(NamedTuple):
    """The sums of the sites, each after its base, and those of which the sums are asked."""

    sites: tuple[Site, ...]
    needed: tuple[Site, ...]

    def sums(self, values: Sequence[Tensor]) -> dict[int, list[Tensor]]:
        """Return the sums in the buckets of each site, given the costs."""
        stacks, totals = Stacks(values), dict[tuple[Alignment, TermSet], Tensor]()
        found: dict[int, list[Tensor]] = {}
        for site in self.sites:
            sums: list[Tensor] = []
            if site.base is not None:
                known = found[site.base]
                for at, how, into in site.moves:
                    _add(sums, into, how.of(known[at]))
            for total, how, into in site.totals:
                if total.terms.size == 1:
                    _add(sums, into, how.of(values[total.terms.first]))
                else:
                    key = (total.claim, total.terms)
                    if key not in totals:
                        totals[key] = _sum(total, stacks)
                    _add(sums, into, totals[key])
            found[site.number] = sums
        return found


def _add(sums: list[Tensor], into: int, value: Tensor) -> None:
    if into == len(sums):
        sums.append(value)
    else:
        sums[into] = sums[into] + value


def _sum(total: Total, stacks: Stacks) -> Tensor:
    first, *rest = [
        reduction(total.claim, tuple(part.shape)).of(part) for part in stacks.sums(total.terms)
    ]
    return sum(rest, first)


def parts(site: Site, sums: Sequence[Tensor]) -> Iterator[tuple[Tensor, frozenset[int]]]:
    """Yield the sums of a site over its elements, and the dimensions along which each is apart."""
    placed: dict[tuple[frozenset[int], Shape], Tensor] = {}
    for bucket, found in zip(site.buckets, sums, strict=True):
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
    if not all(map(is_plain, (*shapes, *(site.shape for site in structure.sites)))):
        return _made(structure, shapes)
    found = structure.derived.get(shapes)
    if found is None:
        found = structure.derived[shapes] = _made(structure, shapes)
    assert isinstance(found, Plan)
    return found


def _made(structure: Structure, shapes: Sequence[Shape]) -> Plan:
    needed = [site.needs_score for site in structure.sites]
    keys: dict[int, list[tuple[Alignment, frozenset[int], Shape]]] = {}
    sites: list[Site] = []
    for number, reach in _needed(structure, needed) if any(needed) else ():
        builder = _Builder(shapes)
        if reach.base is not None:
            builder.move(reach, keys[reach.base])
        for claims, terms in reach.rest.items():
            builder.take(claims, terms)
        keys[number] = builder.keys
        shape = structure.sites[number].shape
        buckets = tuple(_bucket(*key, shape) for key in builder.keys)
        moves, totals = tuple(builder.moves), tuple(builder.totals)
        is_counted = any(bucket.is_placed or bucket.is_shared for bucket in buckets)
        sites.append(Site(number, reach.base, moves, totals, buckets, is_counted))
    asked = sorted((site for site in sites if needed[site.number]), key=attrgetter("number"))
    return Plan(tuple(sites), tuple(asked))


class _Builder:
    """Finds the buckets of a site."""

    def __init__(self, shapes: Sequence[Shape]) -> None:
        self._shapes = shapes
        self._places: dict[tuple[Alignment, frozenset[int]], int] = {}
        self.keys: list[tuple[Alignment, frozenset[int], Shape]] = []
        self.moves: list[tuple[int, Reduction, int]] = []
        self.totals: list[tuple[Total, Reduction, int]] = []

    def move(self, reach: Reach, known: Sequence[tuple[Alignment, frozenset[int], Shape]]) -> None:
        """Take the sums of the base, as they stand to the site."""
        assert reach.edge is not None
        for at, (alignment, apart, shape) in enumerate(known):
            step = compose(alignment, reach.edge)
            if step is not None:
                how = reduction(step, shape)
                into = self._into(how, apart_through(reach.edge, apart))
                self.moves.append((at, how, into))

    def take(self, claims: Sequence[Alignment], terms: TermSet) -> None:
        """Take terms that depend on the site by these claims."""
        apart = apart_dims(claims)
        for claim in claims:
            total = Total(claim, terms, self._shapes[terms.first])
            how = reduction(claim, total.shape)
            self.totals.append((total, how, self._into(how, apart)))

    def _into(self, how: Reduction, apart: frozenset[int]) -> int:
        key = (how.alignment, apart)
        if key not in self._places:
            self._places[key] = len(self.keys)
            self.keys.append((*key, how.shape))
        return self._places[key]


def _bucket(alignment: Alignment, apart: frozenset[int], shape: Shape, site: Shape) -> Bucket:
    how = filling(alignment, shape)
    if how.alignment.there:
        return Bucket(apart, how, room(how.alignment, site), is_shared=True, is_placed=True)
    size = spread(how.alignment, site)
    is_shared = any(n > 1 and dim not in apart for dim, n in enumerate(size))
    return Bucket(apart, how, size, is_shared, is_placed=False)


def _needed(structure: Structure, needed: list[bool]) -> Iterator[tuple[int, Reach]]:
    """Yield what the sites reach whose sums are needed, a base before what is built on it."""
    found = [reach if closure else None for _, closure, reach in reaches(structure)]
    found.reverse()
    is_needed = list(needed)
    for number, reach in enumerate(found):
        if is_needed[number] and reach is not None and reach.base is not None:
            is_needed[reach.base] = True
    for number in reversed(range(len(found))):
        reach = found[number]
        if is_needed[number] and reach is not None:
            yield number, reach
