"""Structure of a recording: sites, edges and terms, as plain immutable data without tensors.

Sites are numbered in program order, so that parents come before children. Reachability is answered
on it by `ancestral.trace.graph.reachability`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ancestral.provenance.algebra.alignment import Alignment, Shape, nothing_kept
from ancestral.provenance.algebra.provenance import Provenance, Source

Entries = tuple[tuple[Alignment, frozenset[int]], ...]
"""Numbers of sites, by the alignment with them. One that stands under several is related by each,
and they share no pair of elements."""


@dataclass(frozen=True)
class Vertex:
    """One site: its independent draws, the sites that its parameters depend on directly."""

    name: str
    shape: Shape
    incoming: Entries  # of sites, over shape
    needs_score: bool


@dataclass(frozen=True)
class TermShape:
    """One term of a loss: its shape, and the sites that it depends on directly."""

    shape: Shape
    entries: Entries


@dataclass(frozen=True)
class Structure:
    """The sites and the terms, and the direct dependencies between them."""

    sites: tuple[Vertex, ...]
    terms: tuple[TermShape, ...]

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
        for term in self.terms:
            for _, sites in term.entries:
                for site in sites:
                    found[site] = True
        for site in reversed(range(len(self.sites))):
            found[site] = found[site] or any(found[child] for child, _ in self.children[site])
        return tuple(found)


def restricted(found: Provenance | None, numbers: dict[Source, int]) -> Entries:
    """Return the entries of a provenance with its sources numbered as sites; others left out."""
    if found is None:
        return ()
    entries: list[tuple[Alignment, frozenset[int]]] = []
    for alignment, members in found.entries:
        sites = frozenset([numbers[source] for source in members if source in numbers])
        if sites:
            entries.append((alignment, sites))
    return tuple(entries)


def flattened(structure: Structure) -> Structure:
    """Return the structure with every alignment lost: whole sites and whole terms."""
    return Structure(
        tuple(
            Vertex(v.name, v.shape, _lost(v.incoming, len(v.shape)), v.needs_score)
            for v in structure.sites
        ),
        tuple(TermShape(t.shape, _lost(t.entries, len(t.shape))) for t in structure.terms),
    )


def _lost(entries: Sequence[tuple[Alignment, frozenset[int]]], rank: int) -> Entries:
    found = frozenset[int]().union(*(members for _, members in entries))
    return ((nothing_kept(rank), found),) if found else ()
