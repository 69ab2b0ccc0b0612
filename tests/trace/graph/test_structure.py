"""Structure: what is downstream of what, and which dimensions still index each other."""

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from ancestral.provenance.algebra.alignment import LOST, Alignment, Dims
from ancestral.provenance.algebra.overlap import meet
from ancestral.provenance.algebra.provenance import Source, Universe, union
from ancestral.trace.graph.reachability import downstream
from ancestral.trace.graph.structure import (
    Entries,
    Row,
    Structure,
    TermShape,
    Vertex,
    flattened,
    restricted,
    structure_of,
)

Given = tuple[Dims, set[int]]
Reached = dict[tuple[Dims, ...], set[int]]


def entries_of(*given_entries: Given) -> Entries:
    return tuple((Alignment(dims), tuple(sorted(sites))) for dims, sites in given_entries)


def site(name: str, shape: tuple[int, ...], *incoming: Given) -> Vertex:
    """Return a site that needs its score."""
    return Vertex(name, shape, entries_of(*incoming), needs_score=True)


def term(shape: tuple[int, ...], *entries: Given) -> TermShape:
    """Return a term with these direct dependencies."""
    return TermShape(shape, entries_of(*entries))


def reached(structure: Structure) -> tuple[Reached, ...]:
    """Return what each site reaches, of alignments without windows."""
    return tuple(
        {
            tuple(claim.dims for claim in claims): set(terms.numbers().tolist())
            for claims, terms in closure.items()
        }
        for closure in downstream(structure)
    )


def test_a_chain_reaches_its_end_from_every_link() -> None:
    structure = Structure(
        (site("a", (5,)), site("b", (5,), ((0,), {0})), site("c", (5,), ((0,), {1}))),
        (term((5,), ((0,), {2})), term((), ((), {1}))),
    )
    assert reached(structure) == (
        {((0,),): {0}, ((),): {1}},
        {((0,),): {0}, ((),): {1}},
        {((0,),): {0}},
    )
    along = Alignment((0,))
    assert structure.children == (((1, along),), ((2, along),), ())


def test_flattening_loses_every_alignment_and_no_dependency() -> None:
    structure = Structure(
        (site("a", (2, 3)), site("b", (3, 2), ((1, 0), {0})), site("c", ())),
        (term((2, 3), ((0, 1), {0}), ((1, 0), {1})), term(())),
    )
    flat = flattened(structure)
    lost = Alignment((LOST, LOST))
    assert [v.incoming for v in flat.sites] == [(), ((lost, (0,)),), ()]
    assert [t.entries for t in flat.terms] == [((lost, (0, 1)),), ()]
    assert [v.shape for v in flat.sites] == [v.shape for v in structure.sites]
    assert reached(flat) == ({((LOST, LOST),): {0}}, {((LOST, LOST),): {0}}, {})


def test_a_provenance_is_restricted_to_the_sites_and_renumbered() -> None:
    universe = Universe()
    a, other, b = (Source(name, (3,)) for name in ("a", "other", "b"))
    found = union([universe.of(source, (3,)) for source in (a, other, b)])
    assert restricted(found, {a: 0, b: 1}) == ((Alignment((0,)), (0, 1)),)
    assert restricted(found, {}) == ()
    assert restricted(None, {a: 0}) == ()


def injective(dims: Dims) -> Dims:
    """Lose the dimensions that index one that an earlier dimension indexes."""
    return tuple(LOST if d in dims[:at] else d for at, d in enumerate(dims))


SIZE = 2  # of every dimension, so that any may index any


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Draw a graph: any site may depend on those before it, any term on any site."""

    def aligned(rank: int, ancestor: int) -> st.SearchStrategy[Dims]:
        dims = st.lists(st.integers(LOST, ancestor - 1), min_size=rank, max_size=rank).map(tuple)
        return dims.map(injective)

    count = draw(st.integers(1, 6))
    ranks = [draw(st.integers(0, 3)) for _ in range(count)]

    def entries(rank: int, ancestors: int) -> Entries:
        found: dict[Dims, set[int]] = {}
        for ancestor in range(ancestors):
            if draw(st.booleans()):
                found.setdefault(draw(aligned(rank, ranks[ancestor])), set()).add(ancestor)
        return entries_of(*found.items())

    sites = tuple(
        Vertex(f"z{at}", (SIZE,) * rank, entries(rank, at), needs_score=True)
        for at, rank in enumerate(ranks)
    )
    term_ranks = [draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, 4)))]
    terms = tuple(TermShape((SIZE,) * rank, entries(rank, count)) for rank in term_ranks)
    return Structure(sites, terms)


def alignments_by_path(structure: Structure, number: int) -> dict[int, list[Alignment]]:
    """Return, for every site, the alignment that each path to a term claims."""
    found: dict[int, list[Alignment]] = {}
    pending = [(at, a) for a, sites in structure.terms[number].entries for at in sites]
    while pending:
        at, alignment = pending.pop()
        found.setdefault(at, []).append(alignment)
        for edge, parents in structure.sites[at].incoming:
            dims = tuple(LOST if d == LOST else edge.dims[d] for d in alignment.dims)  # type: ignore[index]
            pending.extend((parent, Alignment(dims)) for parent in parents)
    return found


def agreed(structure: Structure) -> list[Reached]:
    """Return what is downstream by the definition: all paths, one by one."""
    found: list[Reached] = [{} for _ in structure.sites]
    for number in range(len(structure.terms)):
        for at, claimed in alignments_by_path(structure, number).items():
            kept = claimed[0]
            for alignment in claimed[1:]:
                kept = meet(kept, alignment)
            found[at].setdefault((kept.dims,), set()).add(number)
    return found


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(structure=structures())
def test_downstream_is_what_all_paths_agree_on(structure: Structure) -> None:
    assert list(reached(structure)) == agreed(structure)
    assert [bool(found) for found in reached(structure)] == list(structure.reaches)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(structure=structures())
def test_flattening_keeps_what_is_reached(structure: Structure) -> None:
    for ours, flat in zip(reached(structure), reached(flattened(structure)), strict=True):
        assert set().union(*flat.values()) == set().union(*ours.values())
        assert all(set(dims) <= {LOST} for (dims,) in flat)


def test_a_structure_of_many_independent_sites_is_made_in_one_go() -> None:
    """Sites without parents once cost as much as all sites, each."""

    class Counted(list[Row]):
        rounds = 0

        def __iter__(self) -> Iterator[Row]:
            self.rounds += 1
            return super().__iter__()

    rounds = set[int]()
    for count in (5, 50):
        universe = Universe()
        sources = [Source(f"z{number}", (), universe) for number in range(count)]
        rows = Counted(Row(source, None, needs_score=True) for source in sources)
        found = structure_of(universe, rows, [((), universe.of(each, ())) for each in sources])
        assert [site.incoming for site in found.sites] == [()] * count
        rounds.add(rows.rounds)
    assert len(rounds) == 1
