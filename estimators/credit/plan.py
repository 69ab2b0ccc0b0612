"""Credit plan: which sums of costs each site is given, found once for a structure.

It is made of numbers only, and follows from the structure and the shapes of the costs alone, so
that it is kept with the structure, for all recordings that have it.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from operator import itemgetter
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ancestral.estimators.credit.cost_sums import (
    Filling,
    Numbers,
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
from ancestral.trace.graph.trees import Trees


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


class Plan:
    """The sums of sites, each after its bases: those of children, moved along the edges.

    To these come the sums of further terms: a term by its number, a set of terms by that of the set
    below zero. A recording may have very many sites: what there is of them stands in lists side by
    side, which hold no objects that Python's collector has to walk over.
    """

    def __init__(self) -> None:
        """Begin with no site."""
        self._numbers = array("q")
        self._bases: list[tuple[int, ...]] = []
        self._layouts: list[Layout] = []
        self._terms: list[tuple[int, ...]] = []
        self._asked: list[bool] = []  # those that need a score
        self._sets: list[TermSet | bytes] = []
        self._places: dict[TermSet | bytes, int] = {}

    def __len__(self) -> int:
        """Return the number of sites."""
        return len(self._numbers)

    def add(
        self,
        number: int,
        bases: tuple[int, ...],
        layout: Layout,
        terms: tuple[int, ...],
        is_asked: bool,
    ) -> None:
        """Add the site of a number; its bases are given by their places here."""
        self._numbers.append(number)
        self._bases.append(bases)
        self._layouts.append(layout)
        self._terms.append(terms)
        self._asked.append(is_asked)

    def of_terms(self, terms: TermSet) -> int:
        """Return the number of a set of terms, the same for sets that are equal."""
        if terms.is_one:
            return terms.first
        found: TermSet | bytes = terms
        if terms.mask and 4 * terms.size < terms.mask.bit_length() // 8:
            # Few and far between, as what one child of a site reaches and another does not.
            found = terms.numbers().astype(np.int32).tobytes()
        place = self._places.setdefault(found, len(self._sets))
        if place == len(self._sets):
            self._sets.append(found)
        return -1 - place

    def needed(self) -> "Plan":
        """Return the plan of the sites that are asked for, and of those that these are built on."""
        are_needed = list(self._asked)
        for place in reversed(range(len(self))):  # what others are built on comes before
            for base in self._bases[place] if are_needed[place] else ():
                are_needed[base] = True
        self._places.clear()
        if all(are_needed):
            return self
        found, places = Plan(), dict[int, int]()
        found._sets = self._sets
        for place in (place for place, is_needed in enumerate(are_needed) if is_needed):
            places[place] = len(found)
            found.add(
                self._numbers[place],
                tuple([places[base] for base in self._bases[place]]),
                self._layouts[place],
                self._terms[place],
                self._asked[place],
            )
        return found

    def sums(self, values: Sequence[Tensor]) -> Iterator[tuple[int, Layout, Sequence[Tensor]]]:
        """Yield the sites that are asked for in their order, with the sums in their buckets.

        Args:
            values: the costs.
        """
        of_sets = self._sums_of_sets(values) if self._used else {}
        totals: dict[tuple[Alignment, int], Tensor] = {}
        found: list[Tensor] = []  # of all sites, one after the other
        starts = array("q")
        for bases, layout, sets in zip(self._bases, self._layouts, self._terms, strict=True):
            start = len(found)
            for which, at, how, into in layout.moves:
                _add(found, start + into, how.of(found[starts[bases[which]] + at]))
            for at, claim, how, into in layout.taken:
                number = sets[at]
                if number >= 0:
                    _add(found, start + into, how.of(values[number]))
                else:
                    total = totals.get((claim, number))
                    if total is None:
                        total = _sum(claim, of_sets[number])
                        totals[claim, number] = total
                    _add(found, start + into, total)
            starts.append(start)
        for place in self._in_order:
            start, layout = starts[place], self._layouts[place]
            yield self._numbers[place], layout, found[start : start + len(layout.buckets)]

    @cached_property
    def _in_order(self) -> "array[int]":
        """The places of the sites that are asked for, in the order of their numbers."""
        asked = (place for place in range(len(self)) if self._asked[place])
        return array("q", sorted(asked, key=self._numbers.__getitem__))

    @cached_property
    def _used(self) -> "array[int]":
        """The numbers of the sets of terms that are needed."""
        return array("q", sorted({n for sets in self._terms for n in sets if n < 0}))

    def _sums_of_sets(self, values: Sequence[Tensor]) -> dict[int, list[Tensor]]:
        """Return the sums of the costs in each set of terms, one for each shape and type."""
        sets_of = [self._sets[-1 - number] for number in self._used]
        sums = Stacks(values).each([*map(_size, sets_of)], lambda at: _numbers(sets_of[at]))
        return dict(zip(self._used, sums, strict=True))


def _size(terms: TermSet | bytes) -> int:
    """Return how many terms are in a set."""
    return len(terms) // 4 if isinstance(terms, bytes) else terms.size


def _numbers(terms: TermSet | bytes) -> Numbers:
    """Return the numbers of a set of terms."""
    if isinstance(terms, bytes):
        return np.frombuffer(terms, dtype=np.int32).astype(np.int64)
    return _few(terms) if terms.size <= Stacks.FEW else terms.numbers()


@lru_cache(maxsize=8192)
def _few(terms: TermSet) -> Numbers:
    numbers = terms.numbers()
    numbers.flags.writeable = False
    return numbers


def _add(sums: list[Tensor], into: int, value: Tensor) -> None:
    if into == len(sums):
        sums.append(value)
    else:
        sums[into] = sums[into] + value


def _sum(claim: Alignment, costs: Sequence[Tensor]) -> Tensor:
    first, *rest = [reduction(claim, tuple(cost.shape)).of(cost) for cost in costs]
    return sum(rest, first)


def parts(layout: Layout, sums: Sequence[Tensor]) -> Iterator[tuple[Tensor, frozenset[int]]]:
    """Yield the sums of a site over its elements, and the dimensions along which each is apart."""
    placed: dict[tuple[frozenset[int], Shape], Tensor] = {}
    for bucket, found in zip(layout.buckets, sums, strict=True):
        total = bucket.filling.of(found)
        if bucket.is_placed:
            key = (bucket.apart, bucket.size)
            onto = placed.get(key)
            onto = total.new_zeros(bucket.size) if onto is None else onto
            placed[key] = put(total, bucket.filling.alignment, onto)
        else:
            yield total if total.shape == bucket.size else total.reshape(bucket.size), bucket.apart
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
    plan = Plan()
    if any(site.needs_score for site in structure.sites):
        trees = Trees(structure)
        _add_trees(plan, structure, trees, shapes)
        both = zip(trees.has, structure.reaches, strict=True)
        if not all(has or not reaches for has, reaches in both):
            _add_others(plan, structure, trees, shapes)
    return plan.needed()


def _add_others(plan: Plan, structure: Structure, trees: Trees, shapes: Sequence[Shape]) -> None:
    """Add the sites that reach a term and stand in no tree, each after those that it reaches."""
    layouts: dict[int, Layout] = {}
    places: dict[int, int] = {}
    for number, closure, (base, edge, rest) in reaches(structure, trees.has):
        if closure:
            site = structure.sites[number]
            before = () if base is None or edge is None else ((layouts[base], edge),)
            taken = tuple([(claims, shapes[terms.first]) for claims, terms in rest.items()])
            layouts[number] = how = layout(before, taken, site.shape)
            sets = tuple([plan.of_terms(terms) for terms in rest.values()])
            places[number] = len(plan)
            bases = () if base is None else (places[base],)
            plan.add(number, bases, how, sets, site.needs_score)


def _add_trees(plan: Plan, structure: Structure, trees: Trees, shapes: Sequence[Shape]) -> None:
    """Add the sites in trees that reach a term, each after those that it reaches."""
    layouts: dict[int, Layout] = {}
    places: dict[int, int] = {}
    for number in reversed(range(len(trees.has))):
        if trees.has[number]:
            site = structure.sites[number]
            children = [each for each in trees.children(number) if each[0] in layouts]
            terms = [*trees.terms(number)]
            how = layout(
                tuple([(layouts[child], edge) for child, edge in children]),
                tuple([((claim,), shapes[term]) for term, claim in terms]),
                site.shape,
            )
            if how.keys:  # else nothing is left on the way
                layouts[number], places[number] = how, len(plan)
                bases = tuple([places[child] for child, _ in children])
                plan.add(number, bases, how, tuple([term for term, _ in terms]), site.needs_score)


_FEW = 16
"""Sums of a site whose layout is kept: memory has a bound, whatever structures are met."""


def layout(
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
