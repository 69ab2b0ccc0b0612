"""Trees of a structure: the sites whose sums of costs need no sets of terms.

On a chain, and wherever each site has one parent and each term depends on one site, no two children
of a site reach one term. What is downstream of the site is then what is downstream of each of its
children, added, and nobody has to know which terms those are: time and memory follow the number of
sites, whatever the order that they are numbered in.

>>> from ancestral.trace.graph.structure import TermShape, Vertex
>>> along = Alignment(())
>>> sites = [Vertex("a", (), (), True), Vertex("b", (), ((along, frozenset([0])),), True)]
>>> chain = Structure(tuple(sites), (TermShape((), ((along, frozenset([1])),)),))
>>> trees = Trees(chain)
>>> trees.has, [child for child, _ in trees.children(0)], [term for term, _ in trees.terms(1)]
([True, True], [1], [0])
"""

from array import array
from collections.abc import Iterator

import numpy as np

from ancestral.provenance.algebra.alignment import Alignment
from ancestral.trace.graph.structure import Entries, Structure


class Trees:
    """Which sites of a structure stand in trees, with the children and the terms of those.

    All that such a site reaches, and all that it is reached from, stands in its tree. `has` says
    it of each site; what reaches no term counts as in none.
    """

    def __init__(self, structure: Structure) -> None:
        count = len(structure.sites)
        # Numbers in flat arrays: Python's collector walks over none of them.
        parents, terms = _Links(), _Links()
        is_single = [True] * count  # whether it reaches each term on one way
        has_one = [True] * count  # whether it has one parent at most
        for site, reaches in zip(structure.sites, structure.reaches, strict=True):
            number = len(parents.ends)
            if not parents.link(site.incoming if reaches else ()):
                has_one[number] = False
                for _, members in site.incoming:
                    for parent in members:
                        is_single[parent] = False
        for term in structure.terms:
            if not terms.link(term.entries):
                for _, members in term.entries:
                    for site_number in members:
                        is_single[site_number] = False
        for number in reversed(range(count)):
            parent = parents.ends[number]
            if parent >= 0 and not is_single[number]:
                is_single[parent] = False
        self.has = [False] * count
        for number, reaches in enumerate(structure.reaches):
            parent = parents.ends[number]
            is_whole = reaches and has_one[number] and is_single[number]
            self.has[number] = is_whole and (parent < 0 or self.has[parent])
        self._children, self._terms = parents.sorted(count), terms.sorted(count)

    def children(self, site: int) -> Iterator[tuple[int, Alignment]]:
        """Yield the children of a site in a tree that reach a term, and how each depends on it."""
        return self._children.of(site)

    def terms(self, site: int) -> Iterator[tuple[int, Alignment]]:
        """Yield the terms that depend on a site in a tree directly, and how."""
        return self._terms.of(site)


class _Links:
    """Links of numbers, in their order, to one site each, with an alignment; -1 for none."""

    def __init__(self) -> None:
        self.ends = array("q")
        self._told = array("q")
        self._kinds: dict[Alignment, int] = {}

    def link(self, entries: Entries) -> bool:
        """Link the next number to what it depends on; return whether that is one site at most."""
        if len(entries) == 1 and len(entries[0][1]) == 1:
            ((alignment, (site,)),) = entries
            self.ends.append(site)
            self._told.append(self._kinds.setdefault(alignment, len(self._kinds)))
            return True
        self.ends.append(-1)
        self._told.append(-1)
        return not entries

    def sorted(self, count: int) -> "_Linked":
        """Return the links by the site that they lead to, of so many sites."""
        ends = np.asarray(self.ends, dtype=np.int64)
        order = np.argsort(ends, kind="stable")
        starts = np.searchsorted(ends[order], np.arange(count + 1))
        told = np.asarray(self._told, dtype=np.int64)[order]
        return _Linked(order.tolist(), told.tolist(), starts.tolist(), list(self._kinds))


class _Linked:
    """Links by the site that they lead to."""

    def __init__(
        self, numbers: list[int], told: list[int], starts: list[int], kinds: list[Alignment]
    ) -> None:
        self._numbers, self._told, self._starts, self._kinds = numbers, told, starts, kinds

    def of(self, site: int) -> Iterator[tuple[int, Alignment]]:
        """Yield the numbers that are linked to a site, and their alignments."""
        for at in range(self._starts[site], self._starts[site + 1]):
            yield self._numbers[at], self._kinds[self._told[at]]
