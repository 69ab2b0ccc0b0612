"""Reachability in blocks of terms: that of a large graph in which all is of one alignment.

The terms of a block are a few words of bits for each site, and those of all sites lie side by side.
A site reaches what its children do: the words of all sites of one depth are joined at once. No more
than one block is held at a time, and what a site reaches further than one of its children.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ancestral.provenance.algebra.alignment import Alignment, compose
from ancestral.trace.graph.structure import Structure

Numbers = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint64]
WORDS = 16
"""The words of a block, of 64 terms each."""
SAMPLED = 16
"""Blocks by which it is told which child of a site reaches most: any will do."""
_ONES = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8)).reshape(-1, 16).sum(1)


class Differences(NamedTuple):
    """For each site the child that it is built on, -1 for none, and the terms that are more.

    Those of a site are ``terms[starts[site] : starts[site + 1]]``, in ascending order.
    """

    bases: Numbers
    terms: npt.NDArray[np.int32]
    starts: Numbers


def one_alignment(structure: Structure, passed: Sequence[bool]) -> Alignment | None:
    """Return the alignment of all sites and terms, if one of several steps is the same."""
    found: set[Alignment] = set()
    for site, is_passed in zip(structure.sites, passed, strict=True):
        found.update(() if is_passed else [alignment for alignment, _ in site.incoming])
    for term in structure.terms:
        found.update([alignment for alignment, _ in term.entries])
        if len(found) > 1:
            return None
    return next((each for each in found if compose(each, each) == each), None)


def differences(structure: Structure, passed: Sequence[bool]) -> Differences:
    """Return what each site reaches, as the difference from a child that reaches much.

    Args:
        structure: one of one alignment.
        passed: which sites are passed over, that reach none of the others, nor are reached.
    """
    count, end = len(structure.sites), len(structure.terms)
    edges = _Edges(
        [
            (parent, child)
            for child, site in enumerate(structure.sites)
            for _, parents in (() if passed[child] else site.incoming)
            for parent in parents
        ],
        count,
    )
    direct = _Edges(
        [
            (site, number)
            for number, term in enumerate(structure.terms)
            for _, sites in term.entries
            for site in sites
            if not passed[site]
        ],
        count,
    )
    blocks = _Blocks(edges, direct, end)
    sizes = np.zeros(count, dtype=np.int64)
    for _, bits in blocks.some(max(1, end // (64 * WORDS * SAMPLED))):
        sizes[: len(bits)] += _ONES[bits.view(np.uint16)].sum(1, dtype=np.int64)
    bases = _largest(edges, sizes)
    return Differences(
        bases, *_put_together([_more(at, b, bases) for at, b in blocks.some()], count)
    )


class _Edges:
    """Pairs sorted by the first number: the second ones of each begin at its start."""

    def __init__(self, pairs: list[tuple[int, int]], count: int) -> None:
        both = np.asarray(pairs, dtype=np.int64).reshape(-1, 2)
        both = both[np.lexsort((both[:, 1], both[:, 0]))]
        self.froms, self.ends = both[:, 0].copy(), both[:, 1].copy()
        self.starts = np.searchsorted(self.froms, np.arange(count + 1))


class _Blocks:
    """The bits of the terms that each site reaches: [sites, WORDS] for each block."""

    def __init__(self, edges: _Edges, direct: _Edges, end: int) -> None:
        self._direct, self._end = direct, end
        self._steps = [*_by_depth(edges)]

    def some(self, every: int = 1) -> Iterator[tuple[int, Bits]]:
        """Yield the first term of each block, or of every so many, and its bits.

        Sites after all those that its terms depend on directly reach none: they are left out.
        """
        numbers = self._direct.ends
        for first in range(0, self._end, 64 * WORDS * every):
            inside = np.flatnonzero((numbers >= first) & (numbers < first + 64 * WORDS))
            sites, terms = self._direct.froms[inside], numbers[inside] - first
            count = int(sites.max(initial=-1)) + 1
            bits = np.zeros((count + 1, WORDS), dtype=np.uint64)  # and one that reaches nothing
            one = np.uint64(1) << (terms & 63).astype(np.uint64)
            np.bitwise_or.at(bits, (sites, terms >> 6), one)
            for parents, children, starts in self._steps:
                some = int(np.searchsorted(parents, count))
                if some:
                    below = children[: starts[some] if some < len(starts) else None]
                    rows = np.take(bits, np.minimum(below, count), axis=0)
                    bits[parents[:some]] |= np.bitwise_or.reduceat(rows, starts[:some])
            yield first, bits[:-1]


def _by_depth(edges: _Edges) -> Iterator[tuple[Numbers, Numbers, Numbers]]:
    """Yield the sites that have children, each after those, all of one depth together.

    With them the children of all, one after the other, and where those of each begin.
    """
    children, starts = edges.ends.tolist(), edges.starts.tolist()
    depths = [0] * (len(starts) - 1)
    for site in reversed(range(len(depths))):
        below = children[starts[site] : starts[site + 1]]
        depths[site] = 1 + max([depths[child] for child in below]) if below else 0
    found = np.asarray(depths)
    order = np.argsort(found, kind="stable")
    bounds = np.searchsorted(found[order], np.arange(1, found.max(initial=0) + 2))
    for begin, end in itertools.pairwise(bounds):
        parents = order[begin:end]
        counts = edges.starts[parents + 1] - edges.starts[parents]
        ends = np.cumsum(counts)
        offsets = np.repeat(edges.starts[parents] - (ends - counts), counts)
        yield parents, edges.ends[np.arange(ends[-1]) + offsets], ends - counts


def _largest(edges: _Edges, sizes: Numbers) -> Numbers:
    """Return for each site the child that reaches most, the earliest of those, -1 for none."""
    order = np.lexsort((edges.ends, -sizes[edges.ends], edges.froms))
    parents, first = np.unique(edges.froms[order], return_index=True)
    children = edges.ends[order[first]]
    bases = np.full(len(sizes), -1)
    bases[parents] = np.where(sizes[children] > 0, children, -1)
    return bases


def _more(
    first: int, bits: Bits, bases: Numbers
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16]]:
    """Return the terms of a block that each site reaches and its base does not, and how many."""
    ours = bases[: len(bits)]
    built = np.flatnonzero((ours >= 0) & (ours < len(bits)))
    more = bits.copy()
    more[built] &= ~bits[ours[built]]
    flat = more.reshape(-1)
    some = np.flatnonzero(flat)
    inner = np.unpackbits(flat[some].view(np.uint8), bitorder="little")
    found = np.flatnonzero(inner.view(np.bool_))
    words = some[found >> 6]
    terms = (words % WORDS << 6) + (found & 63) + first
    counts = np.bincount(words // WORDS, minlength=len(bits))
    return terms.astype(np.int32), counts.astype(np.uint16)


def _put_together(
    found: Sequence[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint16]]], count: int
) -> tuple[npt.NDArray[np.int32], Numbers]:
    """Return the terms of all blocks by the site, and where those of each site begin."""
    totals = np.zeros(count + 1, dtype=np.int64)
    for _, counts in found:
        totals[1 : 1 + len(counts)] += counts
    starts = np.cumsum(totals)
    together = np.empty(starts[-1], dtype=np.int32)
    places = starts[:-1].copy()
    for terms, few in found:
        counts = few.astype(np.int64)
        before = places[: len(counts)] - (np.cumsum(counts) - counts)
        together[np.repeat(before, counts) + np.arange(len(terms))] = terms
        places[: len(counts)] += counts
    return together, starts
