"""Structure of a recording: sites, edges and terms, as plain immutable data without tensors.

Sites are numbered in program order, so that parents come before children. Reachability is answered
on it by `ancestral.trace.graph.reachability`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from ancestral.provenance.algebra.alignment import Alignment, Shape, nothing_kept
from ancestral.provenance.algebra.pattern import MOST_PLANNED, Pattern
from ancestral.provenance.algebra.provenance import Provenance, Source, Universe

T = TypeVar("T")

Entries = tuple[tuple[Alignment, tuple[int, ...]], ...]
"""Numbers of sites, ascending, by the alignment with them. One that stands under several is related
by each, and they share no pair of elements. Most are of one site, of which a set takes four times
as much memory."""


@dataclass(frozen=True, slots=True)
class Vertex:
    """One site: its independent draws, the sites that its parameters depend on directly."""

    name: str
    shape: Shape
    incoming: Entries  # of sites, over shape
    needs_score: bool


@dataclass(frozen=True, slots=True)
class TermShape:
    """One term of a loss: its shape, and the sites that it depends on directly."""

    shape: Shape
    entries: Entries


@dataclass(frozen=True)
class Structure:
    """The sites and the terms, and the direct dependencies between them."""

    sites: tuple[Vertex, ...]
    terms: tuple[TermShape, ...]
    # What is found out of it, by whoever does; no tensors.
    derived: dict[Any, Any] = field(default_factory=dict[Any, Any], compare=False, repr=False)

    @cached_property
    def children(self) -> tuple[tuple[tuple[int, Alignment], ...], ...]:
        """For each site, its direct children, and their alignment with it."""
        found: list[list[tuple[int, Alignment]]] = [[] for _ in self.sites]
        for child, site in enumerate(self.sites):
            for alignment, parents in site.incoming:
                for parent in parents:
                    found[parent].append((child, alignment))
        return tuple(map(tuple, found))

    @cached_property
    def reaches(self) -> tuple[bool, ...]:
        """For each site, whether it reaches any term."""
        found = [False] * len(self.sites)
        for _, sites in chain.from_iterable([term.entries for term in self.terms]):
            for site in sites:
                found[site] = True
        for number in reversed(range(len(self.sites))):
            for _, parents in self.sites[number].incoming if found[number] else ():
                for parent in parents:
                    found[parent] = True
        return tuple(found)


class Row(NamedTuple):
    """A source that may be a site: what it depends on directly, and whether it needs a score."""

    source: Source
    behind: Provenance | None
    needs_score: bool


def structure_of(
    universe: Universe,
    rows: Sequence[Row],
    terms: Sequence[tuple[Shape, Provenance | None]],
) -> Structure:
    """Return the structure of a recording, the one that was found for an earlier one if alike.

    What tells them apart is all that a structure is made of: for each source its name, its shape,
    the pattern of what it depends on and whether it needs a score, for each term its shape and
    pattern. So the same structure is never one that would be made otherwise now.

    Args:
        universe: that of the recording.
        rows: its sources that come from no other one, in their order.
        terms: of each term the shape, and what it depends on.
    """
    known: dict[Source, int] = {}

    def numbers() -> dict[Source, int]:
        if not known:
            known.update({row.source: number for number, row in enumerate(rows)})
        return known

    def make() -> Structure:
        at = {universe.slot(row.source): number for number, row in enumerate(rows)}

        @cache  # a term and the next site often have one pattern
        def of_slots(pattern: Pattern) -> Entries:
            return tuple(_restricted(pattern.entries, at))

        def entries(found: Provenance | None) -> Entries:
            if found is None:
                return ()
            if found.universe is not universe:
                return restricted(found, numbers())
            return of_slots(found.pattern)

        return Structure(
            tuple(
                Vertex(source.name, source.shape, entries(behind), needs_score)
                for source, behind, needs_score in rows
            ),
            tuple(TermShape(shape, entries(found)) for shape, found in terms),
        )

    size = len(rows) + len(terms)
    if size > MOST_PLANNED:
        return make()
    places = None  # of our own among all that the slots of patterns number
    if len(rows) < len(universe.sources):
        places = tuple([universe.number(row.source) for row in rows])

    def seen(told: Provenance | None) -> Pattern | Entries | None:
        if told is None or told.universe is universe:
            return None if told is None else told.pattern
        return restricted(told, numbers())

    # Flat, so that Python's collector has two tuples to walk over instead of one for each.
    of_rows = [x for s, told, needs in rows for x in (s.name, s.shape, seen(told), needs)]
    of_terms = [x for shape, told in terms for x in (shape, seen(told))]
    key = (places, tuple(of_rows), tuple(of_terms))
    return universe.patterns.structures.get(key, make, size)


def restricted(found: Provenance | None, numbers: dict[Source, int]) -> Entries:
    """Return the entries of a provenance with its sources numbered as sites; others left out."""
    return () if found is None else tuple(_restricted(found.entries, numbers))


def _restricted(
    entries: Iterable[tuple[Alignment, Iterable[T]]], numbers: Mapping[T, int]
) -> Iterator[tuple[Alignment, tuple[int, ...]]]:
    for alignment, members in entries:
        sites = tuple(sorted([numbers[member] for member in members if member in numbers]))
        if sites:
            yield alignment, sites


def flattened(structure: Structure) -> Structure:
    """Return the structure with every alignment lost: whole sites and whole terms."""
    return Structure(
        tuple(
            Vertex(v.name, v.shape, _lost(v.incoming, len(v.shape)), v.needs_score)
            for v in structure.sites
        ),
        tuple(TermShape(t.shape, _lost(t.entries, len(t.shape))) for t in structure.terms),
    )


def _lost(entries: Entries, rank: int) -> Entries:
    found = tuple(sorted({*chain.from_iterable([members for _, members in entries])}))
    return ((nothing_kept(rank), found),) if found else ()
