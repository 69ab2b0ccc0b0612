"""Laws of provenance: a semilattice, and alignments that only ever get fewer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dims, Shape
from ancestral.provenance.algebra.alignment_loss import joined
from ancestral.provenance.algebra.alignment_map import add, broadcast_shape
from ancestral.provenance.algebra.overlap import meet
from ancestral.provenance.algebra.pattern import MOST_SOURCES, forget
from ancestral.provenance.algebra.provenance import (
    Provenance,
    Source,
    Universe,
    union,
)
from ancestral.provenance.algebra.source_alignments import claimed

RANK = 2
SHAPE = (3, 4)
NAMES = "abcdef"
Given = dict[Alignment, frozenset[str]]
alignments = st.tuples(*[st.sampled_from([LOST, 0, 1])] * RANK).map(Alignment)
entries = st.dictionaries(alignments, st.frozensets(st.sampled_from(NAMES)), max_size=4)


def as_claims(given_entries: Given) -> dict[str, Alignment]:
    """Return the alignment of every member: the reference that shares no code with `add`."""
    claims: dict[str, Alignment] = {}
    for alignment, names in given_entries.items():
        for name in names:
            known = claims.get(name, alignment)
            kept = zip(known.dims, alignment.dims, strict=True)
            claims[name] = Alignment(tuple(a if a == b else LOST for a, b in kept))
    return claims


class Sources(dict[str, Source]):
    """Six sources by name, in a universe."""

    def __init__(self) -> None:
        self.universe = Universe()
        super().__init__({name: Source(name, SHAPE) for name in NAMES})
        for source in self.values():
            self.universe.number(source)

    def merged(self, *given_entries: Given) -> dict[Alignment, frozenset[Source]]:
        found: dict[Alignment, frozenset[Source]] = {}
        for each in given_entries:
            for alignment, names in each.items():
                add(found, alignment, frozenset(self[name] for name in names), SHAPE)
        return found

    def provenance(self, given_entries: Given) -> Provenance:
        return self.universe.intern(SHAPE, self.merged(given_entries))


@pytest.fixture
def sources() -> Sources:
    """Six sources."""
    return Sources()


@given(entries, entries)
def test_adding_keeps_every_member_once_with_what_all_claim(first: Given, second: Given) -> None:
    merged = Sources().merged(first, second)
    found = {source.name: a for a, members in merged.items() for source in members}
    assert sum(len(members) for members in merged.values()) == len(found)
    expected = as_claims(first)
    for name, claim in as_claims(second).items():
        expected[name] = meet(expected.get(name, claim), claim)
    assert found == expected


@given(entries, entries, entries)
def test_union_is_a_semilattice(a: Given, b: Given, c: Given) -> None:
    sources = Sources()
    p, q, r = (sources.provenance(e) for e in (a, b, c))
    assert p.union(p) is p
    assert p.union(q) is q.union(p)
    assert p.union(q).union(r) is p.union(q.union(r)) is union([p, q, r])


@given(entries, st.tuples(*[st.sampled_from([LOST, 0, 1])] * 3))
def test_remapping_never_drops_a_source(e: Given, dims: Dims) -> None:
    p = Sources().provenance(e)
    moved = p.remap((3, 4, 3), dims)
    assert p.members == (frozenset() if moved is None else moved.members)


@given(entries, entries)
def test_remapping_distributes_over_union(a: Given, b: Given) -> None:
    sources = Sources()
    p, q = sources.provenance(a), sources.provenance(b)
    dims = (1, LOST)
    moved = [each.remap((4, 9), dims) for each in (p, q)]
    assert p.union(q).remap((4, 9), dims) is (
        union([each for each in moved if each is not None]) if any(moved) else None
    )


def test_equal_provenances_are_one_object(sources: Sources) -> None:
    one, other = frozenset([sources["a"], sources["b"]]), frozenset([sources["c"]])
    first = sources.universe.intern(SHAPE, {Alignment((0, 1)): one, Alignment((LOST, 1)): other})
    again = sources.universe.intern(SHAPE, {Alignment((LOST, 1)): other, Alignment((0, 1)): one})
    assert again is first


def scalars(universe: Universe, count: int) -> list[Provenance]:
    return [universe.of(Source(f"z{i}", ()), ()) for i in range(count)]


def test_many_sources_are_gathered_and_found_again() -> None:
    universe = Universe()
    total = union(scalars(universe, 1000))
    for each in scalars(universe, 1000):
        total = total.union(each)
    assert len(total.members) <= MOST_SOURCES
    assert [source.name for source in total.sources] == [f"z{i}" for i in range(1000)] * 2


def test_what_is_gathered_keeps_its_alignments() -> None:
    universe = Universe()
    many = union([universe.of(Source(f"z{i}", (3, 4)), (3, 4)) for i in range(100)])
    summed = many.remap((4,), (1,))
    assert summed is not None
    assert set(claimed(summed).values()) == {(Alignment((1,)),)}


@given(st.data(), st.sampled_from([(), (3,), (3, 4)]), st.integers(2, 90))
def test_a_sum_depends_on_what_the_union_does(data: st.DataObject, shape: Shape, size: int) -> None:
    """Whatever is summed in whatever order, asked in between or not: to more and fewer sources."""
    universe = Universe()
    dims = data.draw(st.sampled_from([tuple(range(len(shape))), (LOST,) * len(shape)]))
    whole = [universe.of(Source(f"z{i}", shape), shape).remap(shape, dims) for i in range(size)]
    pairs = [(each, each) for each in whole if each is not None]
    for _ in range(size + 5):
        at, by = (data.draw(st.integers(0, len(pairs) - 1)) for _ in "ab")
        (lazy, eager), (other, others) = pairs[at], pairs[by]
        pairs[at] = joined("add", lazy, other), eager.union(others)
        if data.draw(st.booleans()):
            assert len(pairs[at][0].members) <= MOST_SOURCES
    for lazy, eager in pairs:
        assert set(lazy.sources) == set(eager.sources)
        assert claimed(lazy) == claimed(eager)
        assert lazy.outline is lazy.pattern.outline


def test_a_long_sum_keeps_little() -> None:
    forget()
    universe = Universe()
    total = None
    for each in scalars(universe, 2000):
        total = each if total is None else joined("add", total, each)
    assert total is not None
    assert len(universe.patterns._interned[()]) < 2000 / (MOST_SOURCES - 1) + 9
    assert [source.name for source in total.sources] == [f"z{i}" for i in range(2000)]


def dims_of(found: Provenance | None) -> Dims:
    """Return the dimensions of the one alignment of a provenance."""
    assert found is not None
    ((alignment, _),) = found.entries
    assert alignment == Alignment(alignment.dims)
    return alignment.dims


def test_a_dimension_that_changes_its_size_is_lost(sources: Sources) -> None:
    p = sources.universe.of(sources["a"], SHAPE)
    assert dims_of(p.remap((3, 1), (0, 1))) == (0, LOST)
    narrow = p.remap((1, 4), (0, 1))
    assert narrow is not None
    assert dims_of(narrow.remap((3, 4), (0, 1))) == (LOST, 1)


def test_a_dimension_of_size_one_is_never_aligned(sources: Sources) -> None:
    source = Source("one", (1, 4))
    assert dims_of(sources.universe.of(source, (1, 4))) == (LOST, 1)


def test_an_event_dimension_is_never_aligned(sources: Sources) -> None:
    assert dims_of(sources.universe.of(Source("vector", (3,)), (3, 4))) == (0, LOST)


def test_shapes_broadcast_from_the_right() -> None:
    assert broadcast_shape((3, 1), (5, 1, 4)) == (5, 3, 4)
    assert broadcast_shape((), (2,)) == (2,)


def test_a_union_across_universes_keeps_the_sources_of_both() -> None:
    older, younger = Universe(), Universe()
    p = older.of(Source("old", (3, 4)), (3, 4))
    q = younger.of(Source("young", (3, 4)), (3, 4))
    for both in (p.union(q), q.union(p)):
        assert {source.name for source in both.sources} == {"old", "young"}
        assert both.universe is younger


def test_the_universe_of_a_recording_adopts_those_of_none() -> None:
    class Owner:
        """Whom the sources of a recording belong to."""

    owner = Owner()
    recording, younger = Universe(owner=owner), Universe()
    p = recording.of(Source("drawn", (3,)), (3,))
    q = younger.of(Source("tracked", (3,)), (3,))
    assert p.union(q).universe is recording


def test_values_of_a_settled_universe_are_constants_to_another() -> None:
    older, younger = Universe(), Universe()
    p = older.of(Source("old", (3,)), (3,))
    q = younger.of(Source("young", (3,)), (3,))
    older.become("settled")
    assert p.union(q) is q
