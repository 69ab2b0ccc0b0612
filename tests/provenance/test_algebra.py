"""Laws of provenance: a semilattice, and alignments that only ever get fewer."""

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ancestral.provenance.algebra import (
    LOST,
    Alignment,
    Provenance,
    Source,
    Universe,
    broadcast_shape,
    indices,
    meet,
    merge,
)

RANK = 2
alignments = st.tuples(*[st.sampled_from([LOST, 0, 1])] * RANK)
entries = st.dictionaries(alignments, st.integers(0, 2**6 - 1), max_size=4)


def disjoint(given_entries: dict[Alignment, int]) -> dict[Alignment, int]:
    """Return the entries as a provenance may have them: each member once."""
    found: dict[Alignment, int] = {}
    for alignment, bits in given_entries.items():
        merge(found, alignment, bits)
    return found


def as_claims(given_entries: dict[Alignment, int]) -> dict[int, Alignment]:
    """Return the alignment of every member: the reference that shares no code with `merge`."""
    claims: dict[int, Alignment] = {}
    for alignment, bits in given_entries.items():
        for member in range(6):
            if bits >> member & 1:
                known = claims.get(member, alignment)
                claims[member] = tuple(
                    a if a == b else LOST for a, b in zip(known, alignment, strict=True)
                )
    return claims


@pytest.fixture
def universe() -> Universe:
    """A universe of six sources."""
    found = Universe()
    for name in "abcdef":
        found.bit(Source(name, (3, 4)))
    return found


def provenance(universe: Universe, given_entries: dict[Alignment, int]) -> Provenance:
    for name in "abcdef"[len(universe.sources) :]:
        universe.bit(Source(name, (3, 4)))
    return universe.intern((3, 4), disjoint(given_entries))


@given(entries, entries)
def test_merging_keeps_every_member_once_with_what_all_claim(
    first: dict[Alignment, int], second: dict[Alignment, int]
) -> None:
    merged = disjoint(first)
    for alignment, bits in second.items():
        merge(merged, alignment, bits)
    found = {m: a for a, bits in merged.items() for m in indices(bits)}
    assert sum(bits.bit_count() for bits in merged.values()) == len(found)
    both = [*first.items(), *second.items()]
    expected: dict[int, Alignment] = {}
    for alignment, bits in both:
        for member, claim in as_claims({alignment: bits}).items():
            expected[member] = meet(expected.get(member, claim), claim)
    assert found == expected


@given(entries, entries, entries)
def test_union_is_a_semilattice(
    a: dict[Alignment, int], b: dict[Alignment, int], c: dict[Alignment, int]
) -> None:
    universe = Universe()
    p, q, r = (provenance(universe, e) for e in (a, b, c))
    assert p.union(p) is p
    assert p.union(q) is q.union(p)
    assert p.union(q).union(r) is p.union(q.union(r))


@given(entries, st.tuples(*[st.sampled_from([LOST, 0, 1])] * 3))
def test_remapping_never_drops_a_source(e: dict[Alignment, int], dims: Alignment) -> None:
    p = provenance(Universe(), e)
    assert p.remap((3, 4, 3), dims).bits == p.bits


@given(entries, entries)
def test_remapping_distributes_over_union(a: dict[Alignment, int], b: dict[Alignment, int]) -> None:
    universe = Universe()
    p, q = provenance(universe, a), provenance(universe, b)
    dims = (1, LOST)
    assert p.union(q).remap((4, 9), dims) is p.remap((4, 9), dims).union(q.remap((4, 9), dims))


def test_equal_provenances_are_one_object(universe: Universe) -> None:
    first = universe.intern((3, 4), {(0, 1): 3, (LOST, 1): 4})
    assert universe.intern((3, 4), {(LOST, 1): 4, (0, 1): 3}) is first


def test_a_dimension_that_changes_its_size_is_lost(universe: Universe) -> None:
    p = universe.intern((3, 4), {(0, 1): 1})
    assert p.remap((3, 1), (0, 1)).entries == (((0, LOST), 1),)
    assert p.remap((1, 4), (0, 1)).remap((3, 4), (0, 1)).entries == (((LOST, 1), 1),)


def test_a_dimension_of_size_one_is_never_aligned(universe: Universe) -> None:
    source = Source("one", (1, 4))
    assert universe.of(source, (1, 4)).entries[0][0] == (LOST, 1)


def test_an_event_dimension_is_never_aligned(universe: Universe) -> None:
    assert universe.of(Source("vector", (3,)), (3, 4)).entries[0][0] == (0, LOST)


@given(st.integers(0, 2**80))
def test_indices_are_the_positions_of_the_bits(bits: int) -> None:
    assert reduce(lambda total, index: total | 1 << index, indices(bits), 0) == bits


def test_shapes_broadcast_from_the_right() -> None:
    assert broadcast_shape((3, 1), (5, 1, 4)) == (5, 3, 4)
    assert broadcast_shape((), (2,)) == (2,)


def test_a_union_across_universes_keeps_the_sources_of_both() -> None:
    older, younger = Universe(), Universe()
    p = older.of(Source("old", (3, 4)), (3, 4))
    q = younger.of(Source("young", (3, 4)), (3, 4))
    for union in (p.union(q), q.union(p)):
        assert {source.name for source in union.sources} == {"old", "young"}
        assert union.universe is younger


def test_the_universe_of_a_recording_adopts_those_of_none() -> None:
    recording, younger = Universe(owner=object()), Universe()
    p = recording.of(Source("drawn", (3,)), (3,))
    q = younger.of(Source("tracked", (3,)), (3,))
    assert p.union(q).universe is recording


def test_values_of_a_settled_universe_are_constants_to_another() -> None:
    older, younger = Universe(), Universe()
    p = older.of(Source("old", (3,)), (3,))
    q = younger.of(Source("young", (3,)), (3,))
    older.state = "settled"
    assert p.union(q) is q
