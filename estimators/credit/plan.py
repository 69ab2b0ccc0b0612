"""Credit plan: which sums of costs each site is given, found once for a structure.

It is made of numbers only, and follows from the structure and the shapes of the costs alone, so
that it is kept with the structure, for all recordings that have it.
"""

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ancestral.estimators.credit.cost_sums import Numbers, Stacks, put, reduction
from ancestral.estimators.credit.layout import Layout, layout_of
from ancestral.provenance.algebra.alignment import Alignment, Shape
from ancestral.trace.graph.reachability import TermSet, reaches
from ancestral.trace.graph.reachability_blocks import differences, one_alignment
from ancestral.trace.graph.structure import Structure
from ancestral.trace.graph.trees import Trees


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
        return self._placed(found)

    def of_numbers(self, numbers: npt.NDArray[np.int32]) -> int:
        """Return the same for the set of some numbers."""
        return int(numbers[0]) if len(numbers) == 1 else self._placed(numbers.tobytes())

    def _placed(self, found: TermSet | bytes) -> int:
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
    if len(structure.sites) > MANY:
        alignment = one_alignment(structure, trees.has)
        if alignment is not None:
            _add_alike(plan, structure, trees, shapes, alignment)
            return
    layouts: dict[int, Layout] = {}
    places: dict[int, int] = {}
    for number, closure, (base, edge, rest) in reaches(structure, trees.has):
        if closure:
            site = structure.sites[number]
            before = () if base is None or edge is None else ((layouts[base], edge),)
            taken = tuple([(claims, shapes[terms.first]) for claims, terms in rest.items()])
            layouts[number] = how = layout_of(before, taken, site.shape)
            sets = tuple([plan.of_terms(terms) for terms in rest.values()])
            places[number] = len(plan)
            bases = () if base is None else (places[base],)
            plan.add(number, bases, how, sets, site.needs_score)


MANY = 4096
"""Sites whose sets of terms are found in blocks, if all is of one alignment."""


def _add_alike(
    plan: Plan, structure: Structure, trees: Trees, shapes: Sequence[Shape], alignment: Alignment
) -> None:
    """Add these sites of a structure of one alignment."""
    layouts: dict[int, Layout] = {}
    places: dict[int, int] = {}
    bases, terms, starts = differences(structure, trees.has)
    for number in reversed(range(len(bases))):
        base, rest = int(bases[number]), terms[starts[number] : starts[number + 1]]
        if base >= 0 or len(rest):
            site = structure.sites[number]
            before = ((layouts[base], alignment),) if base >= 0 else ()
            taken = (((alignment,), shapes[rest[0]]),) if len(rest) else ()
            layouts[number] = how = layout_of(before, taken, site.shape)
            places[number] = len(plan)
            sets = (plan.of_numbers(rest),) if len(rest) else ()
            plan.add(number, (places[base],) if base >= 0 else (), how, sets, site.needs_score)


def _add_trees(plan: Plan, structure: Structure, trees: Trees, shapes: Sequence[Shape]) -> None:
    """Add the sites in trees that reach a term, each after those that it reaches."""
    layouts: dict[int, Layout] = {}
    places: dict[int, int] = {}
    for number in reversed(range(len(trees.has))):
        if trees.has[number]:
            site = structure.sites[number]
            children = [each for each in trees.children(number) if each[0] in layouts]
            terms = [*trees.terms(number)]
            how = layout_of(
                tuple([(layouts[child], edge) for child, edge in children]),
                tuple([((claim,), shapes[term]) for term, claim in terms]),
                site.shape,
            )
            if how.keys:  # else nothing is left on the way
                layouts[number], places[number] = how, len(plan)
                bases = tuple([places[child] for child, _ in children])
                plan.add(number, bases, how, tuple([term for term, _ in terms]), site.needs_score)
