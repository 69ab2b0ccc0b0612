"""Reachability: which terms each site reaches, and by which alignment, all paths together.

If dimension ``i`` of a term indexes dimension ``d`` of a site, and that one dimension ``e`` of an
ancestor, then ``i`` indexes ``e``; where several paths lead from a site to a term, only what all of
them claim is kept, or each of their claims if they share no pair of elements.

What a site reaches is coded as the difference from what one of its children does. On a chain, a
tree or layers the differences are a few terms each, whatever lies downstream, and what was reached
is forgotten as soon as no parent needs it, so that time and memory follow the number of edges. The
sets of terms are bit sets without their trailing zeros: in a general graph of n sites they take n²
bits at most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ancestral.provenance.alignment import Alignment, compose
from ancestral.provenance.overlaps import with_claim
from ancestral.trace.structure import Structure

Claims = tuple[Alignment, ...]
"""How a term depends on a site: relations of their elements that share no pair."""


class TermSet(NamedTuple):
    """A set of numbers of terms: the lowest, and the bits from it on."""

    low: int
    mask: int

    @property
    def size(self) -> int:
        """The number of terms."""
        return self.mask.bit_count()

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return self.mask != 0

    def numbers(self) -> npt.NDArray[np.int64]:
        """Return the numbers in ascending order."""
        if self.mask.bit_count() < 16:
            return np.fromiter(_indices(self.mask), dtype=np.int64) + self.low
        size = (self.mask.bit_length() + 7) // 8
        packed = np.frombuffer(self.mask.to_bytes(size, "little"), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(packed, bitorder="little")) + self.low

    def union(self, other: "TermSet") -> "TermSet":
        """Return the terms of both."""
        if not self.mask or not other.mask:
            return self if self.mask else other
        low = min(self.low, other.low)
        return TermSet(low, self.mask << self.low - low | other.mask << other.low - low)

    def common(self, other: "TermSet") -> "TermSet":
        """Return the terms that are in both."""
        if self.low + self.mask.bit_length() <= other.low:
            return NO_TERMS
        if other.low + other.mask.bit_length() <= self.low:
            return NO_TERMS
        low = max(self.low, other.low)
        return _trimmed(low, self.mask >> low - self.low & other.mask >> low - other.low)

    def without(self, other: "TermSet") -> "TermSet":
        """Return the terms that are not in the other."""
        both = self.common(other)
        if not both.mask:
            return self
        return _trimmed(self.low, self.mask ^ both.mask << both.low - self.low)


NO_TERMS = TermSet(0, 0)


def _trimmed(low: int, mask: int) -> TermSet:
    if not mask:
        return NO_TERMS
    if mask & 1:
        return TermSet(low, mask)
    zeros = (mask & -mask).bit_length() - 1
    return TermSet(low + zeros, mask >> zeros)


def _indices(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def term_set(numbers: list[int]) -> TermSet:
    """Return the set of these numbers, in ascending order."""
    low = numbers[0]
    if len(numbers) < 64:
        mask = 0
        for number in numbers:
            mask |= 1 << number - low
        return TermSet(low, mask)
    bits = np.zeros(numbers[-1] - low + 1, dtype=np.uint8)
    bits[np.asarray(numbers) - low] = 1
    return TermSet(low, int.from_bytes(np.packbits(bits, bitorder="little").tobytes(), "little"))


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
    waiting = [sum(len(parents) for _, parents in site.inflow) for site in structure.sites]
    for number in reversed(range(len(structure.sites))):
        children = [edge for edge in structure.children[number] if edge[0] in closures]
        built = _Built(direct[number], children, closures)
        for child, _ in structure.children[number]:
            waiting[child] -= 1
            if not waiting[child]:
                closures.pop(child, None)
        yield number, built.closure, built.reach
        if built.all and waiting[number]:
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
    ) -> None:
        self.closure: Closure = {}
        self.all = NO_TERMS
        self._rest: Closure = {}
        self._is_changed = False
        base, edge = self._start(children, closures)
        for claims, numbers in direct.items():
            self._take(claims, term_set(numbers))
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
    """Return claims on a child as claims on its parent, and whether each stayed one of its own."""
    moved = [step for claim in claims if (step := compose(claim, edge)) is not None]
    found: Claims = ()
    for claim in moved:
        found = with_claim(found, claim)
    return found, list(found) == moved
