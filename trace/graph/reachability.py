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

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ancestral.provenance.algebra.alignment import Alignment, compose
from ancestral.provenance.algebra.overlap import with_claim
from ancestral.trace.graph.structure import Entries, Structure

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
        if self.mask.bit_length() <= 64:
            bits = np.fromiter(_indices(self.mask), dtype=np.int64)
        else:
            size = (self.mask.bit_length() + 63) // 64
            words = np.frombuffer(self.mask.to_bytes(8 * size, "little"), dtype=np.uint64)
            some = np.flatnonzero(words)  # most are zero in what a child does not reach
            inner = np.unpackbits(words[some].view(np.uint8), bitorder="little")
            found = np.flatnonzero(inner.view(np.bool_))
            bits = (some[found >> 6] << 6) + (found & 63)
        return np.concatenate([bits + self.low, tail]) if len(tail) else bits + self.low

    @property
    def is_one(self) -> bool:
        """Whether there is one only, which is told at a look."""
        return self.mask <= 1 and self.mask + self.end - self.full == 1

    def union(self, other: "TermSet") -> "TermSet":
        """Return the terms of both."""
        return union([self, other])

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

    def beyond(self, other: "TermSet") -> "TermSet":
        """Return the terms that are not in the other, all of whose terms are ours."""
        if self.full != other.full or not other.mask:
            return self.without(other)
        return _trimmed(
            self.low, self.mask ^ other.mask << other.low - self.low, self.end, self.end
        )

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


def union(sets: Sequence[TermSet]) -> TermSet:
    """Return the terms of all sets, at least one."""
    if len(sets) == 1:
        return sets[0]
    full = min([each.full for each in sets])
    # From the shortest on: what is moved and copied is then as long as what there is so far.
    first, *longer = sorted(sets, key=_low, reverse=True)
    low, mask = min(first.low, full), first._below(full)
    for each in longer:
        if each.low < low:
            mask <<= low - each.low
            low = each.low
        mask |= each._below(full)
    return _trimmed(low, mask, full, sets[0].end)


_low = attrgetter("low")


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


class Reach(NamedTuple):
    """What one site reaches: what a child does, seen along an edge, and the terms that are more.

    Without a `base`, `rest` is everything.
    """

    base: int | None
    edge: Alignment | None
    rest: Closure


class _Child(NamedTuple):
    """A direct child of a site, and what it reaches: `size` terms."""

    number: int
    edge: Alignment
    closure: Closure
    size: int


def reaches(
    structure: Structure, passed: Sequence[bool] | None = None
) -> Iterator[tuple[int, Closure, Reach]]:
    """Yield for each site, from the last to the first, the terms that it reaches.

    Args:
        structure: the structure.
        passed: which sites are passed over, that reach none of the others, nor are reached.
    """
    direct, end = _Direct(structure), len(structure.terms)
    waiting: dict[int, list[_Child]] = {}  # by the parent, which is met later
    for number in reversed(range(len(structure.sites))):
        if passed is not None and passed[number]:
            continue
        children = waiting.pop(number, [])[::-1]
        built = _Built(direct.of(number), children, end)
        yield number, built.closure, built.reach
        if built.all:
            size = built.all.size
            for edge, parents in structure.sites[number].incoming:
                child = _Child(number, edge, built.closure, size)
                for parent in parents:
                    waiting.setdefault(parent, []).append(child)


def downstream(structure: Structure) -> tuple[Closure, ...]:
    """Return, for each site, the terms that it reaches."""
    found = {number: closure for number, closure, _ in reaches(structure)}
    return tuple(found[number] for number in range(len(structure.sites)))


class _Direct:
    """The terms that depend on each site directly: numbers in flat arrays, by the site."""

    def __init__(self, structure: Structure) -> None:
        kinds: dict[Claims, int] = {}
        sites, numbers, told = array("q"), array("q"), array("q")
        for number, term in enumerate(structure.terms):
            for claims, members in _by_claims(term.entries):
                sites.extend(members)
                numbers.extend([number] * len(members))
                told.extend([kinds.setdefault(claims, len(kinds))] * len(members))
        order = np.argsort(sites, kind="stable")
        counts = np.bincount(sites, minlength=len(structure.sites))
        self._numbers = _flat(np.asarray(numbers)[order])
        self._told = _flat(np.asarray(told)[order])
        self._ends = _flat(np.concatenate([[0], np.cumsum(counts)]))
        self._kinds = list(kinds)
        self._end = len(structure.terms)

    def of(self, site: int) -> Closure:
        """Return the terms that depend on a site directly, by how."""
        found: dict[Claims, list[int]] = {}
        for at in range(self._ends[site], self._ends[site + 1]):
            found.setdefault(self._kinds[self._told[at]], []).append(self._numbers[at])
        return {claims: term_set(numbers, self._end) for claims, numbers in found.items()}


def _flat(numbers: npt.NDArray[np.int64]) -> "array[int]":
    """Return numbers that are looked at one by one."""
    return array("q", numbers.astype(np.int64).tobytes())


def _by_claims(entries: Entries) -> Iterable[tuple[Claims, Collection[int]]]:
    """Return the sites that a term depends on directly, by all the claims on each."""
    if len(entries) == 1:
        ((alignment, sites),) = entries
        return [((alignment,), sites)]
    claims: dict[int, Claims] = {}
    for alignment, sites in entries:
        for site in sites:
            claims[site] = (*claims.get(site, ()), alignment)
    return [(claimed, (site,)) for site, claimed in claims.items()]


class _Built:
    """The closure of one site, built from that of the child that reaches most."""

    def __init__(self, direct: Closure, children: list[_Child], end: int) -> None:
        self.closure: Closure = {}
        self.all = no_terms(end)
        self._rest: Closure = {}
        self._is_changed = False
        base = self._start(children)
        further = {claims: [terms] for claims, terms in direct.items()}
        for child in children:
            if child is not base:
                _merge(further, child)
        if further and len({*further, *self.closure}) == 1:  # all alike: there is no more to say
            self._put(*further.popitem())
        for claims, sets in further.items():
            self._take(claims, union(sets))
        if self._is_changed or base is None:
            self.reach = Reach(None, None, self.closure)
        else:
            self.reach = Reach(base.number, base.edge, self._rest)

    def _start(self, children: list[_Child]) -> _Child | None:
        """Begin with the closure of a child, if it stays what it is on the way here."""
        if not children:
            return None
        best = children[0]
        if len(children) > 1:
            best = max(children, key=attrgetter("size"))
        if not all([along(claims, best.edge)[1] for claims in best.closure]):
            return None
        moved: dict[Claims, list[TermSet]] = {}
        _merge(moved, best)
        self.closure = {claims: union(sets) for claims, sets in moved.items()}
        if self.closure:
            self.all = union([*self.closure.values()])
        return best

    def _put(self, claims: Claims, sets: list[TermSet]) -> None:
        """Add terms that are reached by the claims by which all are."""
        before = self.all
        self.all = union([before, *sets])
        self.closure = {claims: self.all}
        rest = self.all.beyond(before)
        if rest:
            self._rest = {claims: rest}

    def _take(self, claims: Claims, terms: TermSet) -> None:
        """Add terms that are reached by these claims."""
        fresh = terms.without(self.all) if self.closure else terms
        is_one = self.closure.keys() <= {claims}
        if fresh:
            for closure in (self.closure, self._rest):
                before = closure.get(claims)
                closure[claims] = fresh if before is None else before.union(fresh)
            self.all = self.closure[claims] if is_one else self.all.union(fresh)
        if not is_one:
            self._meet(claims, terms)

    def _meet(self, claims: Claims, terms: TermSet) -> None:
        """Add claims to terms that are known to be reached."""
        for before in list(self.closure):
            after, present = before, self.closure[before]
            both = present.common(terms) if before != claims else None
            for claim in claims if both else ():
                after = with_claim(after, claim)
            if both and after is not before:
                self._is_changed = True
                left = present.without(both)
                del self.closure[before]
                if left:
                    self.closure[before] = left
                other = self.closure.get(after)
                self.closure[after] = both if other is None else other.union(both)


def _merge(sets: dict[Claims, list[TermSet]], child: _Child) -> None:
    """Add to sets of terms what a child reaches, seen along the edge to it."""
    for claims, terms in child.closure.items():
        moved, _ = along(claims, child.edge)
        if moved:
            sets.setdefault(moved, []).append(terms)


@lru_cache(maxsize=65536)
def along(claims: Claims, edge: Alignment) -> tuple[Claims, bool]:
    """Return claims on a child as claims on its parent, and whether each stayed separate."""
    moved = [step for claim in claims if (step := compose(claim, edge)) is not None]
    found: Claims = ()
    for claim in moved:
        found = with_claim(found, claim)
    return found, list(found) == moved
