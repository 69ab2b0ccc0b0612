"""Structure: what depends on what in a recording, as plain immutable data that holds no tensor.

Sites are numbered in program order, so that parents come before children; sets of terms are bit
sets of Python integers. Reachability is answered here, with composed alignments: if dimension
``i`` of a cost indexes dimension ``d`` of a site, and that one dimension ``e`` of an ancestor,
then ``i`` indexes ``e``; where several paths lead from a site to a cost, only what all of them
claim is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ancestral.provenance.algebra import LOST, Alignment, Provenance, Shape, indices, merge

Entries = tuple[tuple[Alignment, int], ...]
Closure = dict[Alignment, int]


@dataclass(frozen=True)
class Vertex:
    """One site: its independent draws, the sites that its parameters depend on directly."""

    name: str
    shape: Shape
    inflow: Entries  # of sites, over shape
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
            for alignment, bits in site.inflow:
                for parent in indices(bits):
                    found[parent].append((child, alignment))
        return tuple(tuple(children) for children in found)

    @cached_property
    def downstream(self) -> tuple[Closure, ...]:
        """For each site, the set of terms that it reaches, by alignment.

        An alignment maps the dimensions of the term to those of the site.
        """
        direct: list[Closure] = [{} for _ in self.sites]
        for number, term in enumerate(self.terms):
            for alignment, bits in term.entries:
                for site in indices(bits):
                    direct[site][alignment] = direct[site].get(alignment, 0) | 1 << number
        for site in reversed(range(len(self.sites))):
            reached = direct[site]
            for child, edge in self.children[site]:
                for alignment, terms in direct[child].items():
                    merge(reached, compose(alignment, edge), terms)
        return tuple({a: terms for a, terms in closure.items() if terms} for closure in direct)


@lru_cache(maxsize=65536)
def compose(outer: Alignment, inner: Alignment) -> Alignment:
    """Return the alignment of a tensor with a grandparent, from those of the two steps.

    >>> compose((0, LOST), (1, 0))
    (1, -1)
    """
    return tuple(LOST if d == LOST else inner[d] for d in outer)


def restricted(found: Provenance | None, numbers: dict[int, int]) -> Entries:
    """Return the entries of a provenance with its sources numbered as sites; others left out."""
    if found is None:
        return ()
    entries: dict[Alignment, int] = {}
    for alignment, bits in found.entries:
        for index in indices(bits):
            if index in numbers:
                entries[alignment] = entries.get(alignment, 0) | 1 << numbers[index]
    return tuple(entries.items())


def flattened(structure: Structure) -> Structure:
    """Return the structure with every alignment lost: whole sites and whole terms."""
    return Structure(
        tuple(
            Vertex(v.name, v.shape, _lost(v.inflow, len(v.shape)), v.needs_score)
            for v in structure.sites
        ),
        tuple(TermShape(t.shape, _lost(t.entries, len(t.shape))) for t in structure.terms),
    )


def _lost(entries: Sequence[tuple[Alignment, int]], rank: int) -> Entries:
    bits = 0
    for _, members in entries:
        bits |= members
    return (((LOST,) * rank, bits),) if bits else ()
