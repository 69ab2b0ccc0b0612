"""Reachability: the terms that each site reaches, with alignments, over all paths.

If dimension ``i`` of a term indexes dimension ``d`` of a site, and that one dimension ``e`` of an
ancestor, then ``i`` indexes ``e``; where several paths lead from a site to a term, only what all of
them claim is kept, or each of their claims if they share no pair of elements.

What a site reaches is coded as the difference from what one of its children does. On a chain, a
tree or layers the differences are a few terms each, whatever lies downstream, and what was reached
is forgotten as soon as no parent needs it, so that time and memory follow the number of edges. The
sets of terms are bit sets of what is not a tail of all later terms: in a general graph of n sites
they take n² bits at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ancestral.provenance.algebra.alignment import Alignment, compose
from ancestral.provenance.algebra.overlap import with_claim
from ancestral.trace.graph.structure import Structure

Claims = tuple[Alignment, ...]
"""How a term depends on a site: relations of their elements that share no pair."""


class TermSet(NamedTuple):
    """A set of numbers of terms below `end`: some from the lowest on as bits, and all from `full`.

    The bits stop below the last number that is missing, so that what reaches all later terms, as on
    a chain or through layers, is a few bits, however many terms there are.
    """

    low: int
    mask: int
    full: int
    end: int

    @property
    def size(self) -> int:
        """The number of terms."""
        return self.mask.bit_count() + self.end - self.full

    @property
    def first(self) -> int:
        """The lowest number; `end` where there is none."""
        return self.low if self.mask else self.full

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return self.mask != 0 or self.full < self.end

    def numbers(self) -> npt.NDArray[np.int64]:
        """Return the numbers in ascending order."""
        tail = np.arange(self.full, self.end)
        if not self.mask:
            return tail
        if self.mask.bit_count() < 16:
            bits = np.fromiter(_indices(self.mask), dtype=np.int64)
        else:
            size = (self.mask.bit_length() + 7) // 8
            packed = np.frombuffer(self.mask.to_bytes(size, "little"), dtype=np.uint8)
            bits = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
        return np.concatenate([bits + self.low, tail]) if len(tail) else bits + self.low

    def union(self, other: "TermSet") -> "TermSet":
        """Return the terms of both."""
        full = min(self.full, other.full)
        low = min(self.low, other.low, full)
        ours, theirs = self._below(full), other._below(full)
        mask = ours << self.low - low if ours else 0
        return _trimmed(low, mask | (theirs << other.low - low if theirs else 0), full, self.end)

    def common(self, other: "TermSet") -> "TermSet":
        """Return the terms that are in both."""
        full = max(self.full, other.full)
        ours = self.mask & other._within(self.low, self.mask.bit_length())
        theirs = other.mask & self._within(other.low, other.mask.bit_length())
        low = min(self.low, other.low)
        mask = (ours << self.low - low if ours else 0) | (
            theirs << other.low - low if theirs else 0
        )
        return _trimmed(low, mask, full, self.end)

    def without(self, other: "TermSet") -> "TermSet":
        """Return the terms that are not in the other."""
        width = self.mask.bit_length()
        mask = self.mask & ~other._within(self.low, width)
        if other.full <= self.full:
            return _trimmed(self.low, mask, self.end, self.end)
        between = other.full - self.full
        rest = (1 << between) - 1 & ~other._within(self.full, between)
        low = min(self.low, self.full) if mask else self.full
        mask = mask << self.low - low if mask else 0
        return _trimmed(low, mask | rest << self.full - low, self.end, self.end)

    def _below(self, end: int) -> int:
        """Return the bits, from `low` on, of what is below a number."""
        width = end - self.low
        if width <= 0:
            return 0
        return self.mask if self.mask.bit_length() <= width else self.mask & (1 << width) - 1

    def _within(self, low: int, width: int) -> int:
        """Return the bits of what lies within `width` numbers from `low` on."""
        if not width:
            return 0
        shift = self.low - low
        bits = self.mask << shift if shift >= 0 else self.mask >> -shift
        if self.full < low + width:
            start = max(self.full - low, 0)
            bits |= (1 << width - start) - 1 << start
        return bits & (1 << width) - 1


def _trimmed(low: int, mask: int, full: int, end: int) -> TermSet:
    """Return a set with the numbers that stand before `full` without a gap counted to those."""
    if mask:
        width = full - low
        if mask >> width - 1 & 1:
            width = (mask ^ (1 << width) - 1).bit_length()
            full = low + width
            mask &= (1 << width) - 1
        if mask and not mask & 1:
            zeros = (mask & -mask).bit_length() - 1
            low, mask = low + zeros, mask >> zeros
    return TermSet(low if mask else full, mask, full, end)


def _indices(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def no_terms(end: int) -> TermSet:
    """Return the empty set."""
    return TermSet(end, 0, end, end)


def term_set(numbers: list[int], end: int) -> TermSet:
    """Return the set of these numbers below `end`, in ascending order."""
    low = numbers[0]
    if len(numbers) < 64:
        mask = 0
        for number in numbers:
            mask |= 1 << number - low
    else:
        bits = np.zeros(numbers[-1] - low + 1, dtype=np.uint8)
        bits[np.asarray(numbers) - low] = 1
        mask = int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little")
    return _trimmed(low, mask, end, end)


Closure = dict[Claims, TermSet]
"""The terms that a site reaches; each stands under one key."""


@dataclass(frozen=True)
class Reach:
    """What one site reaches: what a child does, seen along an edge, and the terms that are more.

    Without a `base`, `rest` is everything.
    """

    base: int | None
    edge: Alignment | None
    rest: Closure


def reaches(structure: Structure) -> Iterator[tuple[int, Closure, Reach]]:
    """Yield for each site, from the last to the first, the terms that it reaches.

    The closure that is yielded is good until the next one is asked for.
    """
    direct = _direct(structure)
    closures: dict[int, tuple[Closure, TermSet]] = {}
    waiting = [0] * len(structure.sites)  # for how many parents a closure is kept
    for child, site in enumerate(structure.sites):
        for _, parents in site.incoming:
            waiting[child] += len(parents)
    for number in reversed(range(len(structure.sites))):
        children = [edge for edge in structure.children[number] if edge[0] in closures]
        built = _Built(direct[number], children, closures, len(structure.terms))
        for child, _ in structure.children[number]:
            waiting[child] -= 1
            if not waiting[child]:
                closures.pop(child, None)
        yield number, built.closure, built.reach
        if waiting[number] and built.all:
            closures[number] = (built.closure, built.all)


def downstream(structure: Structure) -> tuple[Closure, ...]:
    """Return, for each site, the terms that it reaches."""
    found = {number: closure for number, closure, _ in reaches(structure)}
    return tuple(found[number] for number in range(len(structure.sites)))


def _direct(structure: Structure) -> list[dict[Claims, list[int]]]:
    """Return for each site the terms that depend on it directly."""
    found: list[dict[Claims, list[int]]] = [{} for _ in structure.sites]
    for number, term in enumerate(structure.terms):
        claims: dict[int, Claims] = {}
        for alignment, sites in term.entries:
            for site in sites:
                claims[site] = (*claims.get(site, ()), alignment)
        for site, claimed in claims.items():
            found[site].setdefault(claimed, []).append(number)
    return found


class _Built:
    """The closure of one site, built from that of the child that reaches most."""

    def __init__(
        self,
        direct: dict[Claims, list[int]],
        children: list[tuple[int, Alignment]],
        closures: dict[int, tuple[Closure, TermSet]],
        end: int,
    ) -> None:
        self.closure: Closure = {}
        self.all = no_terms(end)
        self._rest: Closure = {}
        self._is_changed = False
        base, edge = self._start(children, closures)
        for claims, numbers in direct.items():
            self._take(claims, term_set(numbers, end))
        for child, alignment in children:
            if child != base or alignment is not edge:
                for claims, terms in closures[child][0].items():
                    moved, _ = along(claims, alignment)
                    if moved:
                        self._take(moved, terms)
        if self._is_changed or base is None:
            self.reach = Reach(None, None, self.closure)
        else:
            self.reach = Reach(base, edge, self._rest)

    def _start(
        self, children: list[tuple[int, Alignment]], closures: dict[int, tuple[Closure, TermSet]]
    ) -> tuple[int | None, Alignment | None]:
        """Begin with the closure of a child, if it stays what it is on the way here."""
        if not children:
            return None, None
        best = children[0]
        if len(children) > 1:
            best = max(children, key=lambda edge: closures[edge[0]][1].size)
        child, edge = best
        closure, everything = closures[child]
        moves = [(along(claims, edge), terms) for claims, terms in closure.items()]
        if not all(is_faithful for (_, is_faithful), _ in moves):
            return None, None
        for (moved, _), terms in moves:
            if moved:
                known = self.closure.get(moved)
                self.closure[moved] = terms if known is None else known.union(terms)
        if all(moved for (moved, _), _ in moves):
            self.all = everything
        else:
            for terms in self.closure.values():
                self.all = self.all.union(terms)
        return child, edge

    def _take(self, claims: Claims, terms: TermSet) -> None:
        """Add terms that are reached by these claims."""
        if not self.closure:  # the first
            self.closure[claims] = self._rest[claims] = self.all = terms
            return
        fresh, known = terms.without(self.all), terms.common(self.all)
        if fresh:
            for closure in (self.closure, self._rest):
                before = closure.get(claims)
                closure[claims] = fresh if before is None else before.union(fresh)
            self.all = self.all.union(fresh)
        if known:
            self._meet(claims, known)

    def _meet(self, claims: Claims, terms: TermSet) -> None:
        """Add claims to terms that are known to be reached."""
        for before, present in list(self.closure.items()):
            both = present.common(terms)
            after = before
            if both and before != claims:
                for claim in claims:
                    after = with_claim(after, claim)
            if after is not before:
                self._is_changed = True
                left = present.without(both)
                del self.closure[before]
                if left:
                    self.closure[before] = left
                other = self.closure.get(after)
                self.closure[after] = both if other is None else other.union(both)


@lru_cache(maxsize=65536)
def along(claims: Claims, edge: Alignment) -> tuple[Claims, bool]:
    """Return claims on a child as claims on its parent, and whether each stayed separate."""
    moved = [step for claim in claims if (step := compose(claim, edge)) is not None]
    found: Claims = ()
    for claim in moved:
        found = with_claim(found, claim)
    return found, list(found) == moved
