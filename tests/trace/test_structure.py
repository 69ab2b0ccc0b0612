"""Structure: what is downstream of what, and which dimensions still index each other."""

import itertools
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from ancestral.provenance.algebra import LOST, Alignment, Provenance, Source, Universe, meet
from ancestral.trace.structure import (
    Closure,
    Entries,
    Structure,
    TermShape,
    Vertex,
    compose,
    flattened,
    restricted,
)


def site(name: str, shape: tuple[int, ...], *inflow: tuple[Alignment, int]) -> Vertex:
    """Return a site that needs its score."""
    return Vertex(name, shape, inflow, needs_score=True)


def term(shape: tuple[int, ...], *entries: tuple[Alignment, int]) -> TermShape:
    """Return a term with these direct dependencies."""
    return TermShape(shape, entries)


def test_two_steps_compose() -> None:
    assert compose((0, 1), (1, 0)) == (1, 0)
    assert compose((1, LOST, 0), (0, 2)) == (2, LOST, 0)
    assert compose((0, 1), (LOST, 3)) == (LOST, 3)
    assert compose((), (0, 1)) == ()
    assert compose((LOST, LOST), ()) == (LOST, LOST)


def test_a_chain_reaches_its_end_from_every_link() -> None:
    structure = Structure(
        (site("a", (5,)), site("b", (5,), ((0,), 0b01)), site("c", (5,), ((0,), 0b10))),
        (term((5,), ((0,), 0b100)), term((), ((), 0b010))),
    )
    assert structure.downstream == ({(0,): 0b01, (): 0b10}, {(0,): 0b01, (): 0b10}, {(0,): 0b01})
    assert structure.children == (((1, (0,)),), ((2, (0,)),), ())


def test_a_diamond_whose_paths_agree_keeps_the_alignment() -> None:
    structure = Structure(
        (
            site("top", (4,)),
            site("left", (4,), ((0,), 0b001)),
            site("right", (4,), ((0,), 0b001)),
            site("bottom", (4,), ((0,), 0b110)),
        ),
        (term((4,), ((0,), 0b1000)),),
    )
    assert structure.downstream == ({(0,): 1},) * 4


def test_a_diamond_whose_paths_disagree_keeps_what_both_claim() -> None:
    structure = Structure(
        (
            site("top", (4, 4)),
            site("straight", (4, 4), ((0, 1), 0b001)),
            site("half", (4, 4), ((0, LOST), 0b001)),
        ),
        (term((4, 4), ((0, 1), 0b110)),),
    )
    assert structure.downstream == ({(0, LOST): 1}, {(0, 1): 1}, {(0, 1): 1})


def test_a_path_that_turns_the_batch_meets_the_straight_one_nowhere() -> None:
    structure = Structure(
        (site("top", (4, 4)), site("turned", (4, 4), ((1, 0), 0b01))),
        (term((4, 4), ((0, 1), 0b01)), term((4, 4), ((0, 1), 0b11)), term((4,), ((0,), 0b10))),
    )
    assert structure.downstream[0] == {(0, 1): 0b001, (LOST, LOST): 0b010, (1,): 0b100}
    assert structure.downstream[1] == {(0, 1): 0b010, (0,): 0b100}


def test_a_turned_batch_that_is_turned_back_is_straight() -> None:
    structure = Structure(
        (site("top", (2, 3)), site("turned", (3, 2), ((1, 0), 0b1))),
        (term((2, 3), ((1, 0), 0b10)),),
    )
    assert structure.downstream[0] == {(0, 1): 1}


def test_a_term_that_depends_on_a_site_both_ways_is_reached_once() -> None:
    structure = Structure(
        (site("a", (3,)), site("b", (3,), ((LOST,), 0b1))), (term((3,), ((0,), 0b11)),)
    )
    assert structure.downstream == ({(LOST,): 1}, {(0,): 1})


def test_a_site_that_reaches_nothing_has_nothing_downstream() -> None:
    structure = Structure((site("a", (3,)), site("b", (3,), ((0,), 1))), (term(()),))
    assert structure.downstream == ({}, {})


def test_flattening_loses_every_alignment_and_no_dependency() -> None:
    structure = Structure(
        (site("a", (2, 3)), site("b", (3, 2), ((1, 0), 0b1)), site("c", ())),
        (term((2, 3), ((0, 1), 0b001), ((1, 0), 0b010)), term(())),
    )
    flat = flattened(structure)
    assert [v.inflow for v in flat.sites] == [(), (((LOST, LOST), 1),), ()]
    assert [t.entries for t in flat.terms] == [(((LOST, LOST), 0b11),), ()]
    assert [v.shape for v in flat.sites] == [v.shape for v in structure.sites]
    assert flat.downstream == ({(LOST, LOST): 1}, {(LOST, LOST): 1}, {})


def test_a_provenance_is_restricted_to_the_sites_and_renumbered() -> None:
    universe = Universe()
    a, other, b = (Source(name, (3,)) for name in ("a", "other", "b"))
    found: Provenance | None = None
    for source in (a, other, b):
        new = universe.of(source, (3,))
        found = new if found is None else found.union(new)
    assert found is not None
    assert restricted(found, {0: 0, 2: 1}) == (((0,), 0b11),)
    assert restricted(found, {}) == ()
    assert restricted(None, {0: 0}) == ()


def injective(alignment: Alignment) -> Alignment:
    """Lose the dimensions that index one that an earlier dimension indexes."""
    return tuple(LOST if d in alignment[:at] else d for at, d in enumerate(alignment))


SIZE = 2  # of every dimension, so that any may index any


@st.composite
def structures(draw: st.DrawFn, *, is_diagonal: bool = False) -> Structure:
    """Draw a graph: any site may depend on those before it, any term on any site.

    Two dimensions index one of the ancestor only if `is_diagonal`.
    """

    def aligned(rank: int, ancestor: int) -> st.SearchStrategy[Alignment]:
        dims = st.lists(st.integers(LOST, ancestor - 1), min_size=rank, max_size=rank).map(tuple)
        return dims if is_diagonal else dims.map(injective)

    count = draw(st.integers(1, 6))
    ranks = [draw(st.integers(0, 3)) for _ in range(count)]

    def entries(rank: int, ancestors: int) -> Entries:
        found: dict[Alignment, int] = {}
        for ancestor in range(ancestors):
            if draw(st.booleans()):
                alignment = draw(aligned(rank, ranks[ancestor]))
                found[alignment] = found.get(alignment, 0) | 1 << ancestor
        return tuple(found.items())

    sites = tuple(
        Vertex(f"z{at}", (SIZE,) * rank, entries(rank, at), needs_score=True)
        for at, rank in enumerate(ranks)
    )
    term_ranks = [draw(st.integers(0, 3)) for _ in range(draw(st.integers(0, 4)))]
    terms = tuple(TermShape((SIZE,) * rank, entries(rank, count)) for rank in term_ranks)
    return Structure(sites, terms)


def parents(entries: Entries) -> Iterator[tuple[int, Alignment]]:
    """Yield every direct parent and the alignment with it."""
    for alignment, bits in entries:
        for parent in range(bits.bit_length()):
            if bits >> parent & 1:
                yield parent, alignment


def alignments_by_path(structure: Structure, number: int) -> dict[int, list[Alignment]]:
    """Return, for every site, the alignment that each path to a term claims."""
    found: dict[int, list[Alignment]] = {}
    pending = list(parents(structure.terms[number].entries))
    while pending:
        at, alignment = pending.pop()
        found.setdefault(at, []).append(alignment)
        for parent, edge in parents(structure.sites[at].inflow):
            through = tuple(LOST if d == LOST else edge[d] for d in alignment)
            pending.append((parent, through))
    return found


def agreed(structure: Structure) -> list[Closure]:
    """Return what is downstream by the definition: all paths, one by one."""
    found: list[Closure] = [{} for _ in structure.sites]
    for number in range(len(structure.terms)):
        for at, claimed in alignments_by_path(structure, number).items():
            kept = claimed[0]
            for alignment in claimed[1:]:
                kept = meet(kept, alignment)
            found[at][kept] = found[at].get(kept, 0) | 1 << number
    return found


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(structure=structures())
def test_downstream_is_what_all_paths_agree_on(structure: Structure) -> None:
    assert list(structure.downstream) == agreed(structure)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(structure=structures(is_diagonal=True))
def test_downstream_claims_no_more_than_all_paths_agree_on(structure: Structure) -> None:
    for ours, theirs in zip(structure.downstream, agreed(structure), strict=True):
        for alignment, terms in ours.items():
            for known, others in theirs.items():
                if terms & others:
                    assert meet(alignment, known) == alignment
        assert sum(ours.values()) == sum(theirs.values())


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(structure=structures())
def test_flattening_keeps_what_is_reached(structure: Structure) -> None:
    for ours, flat in zip(structure.downstream, flattened(structure).downstream, strict=True):
        reached = sum(ours.values())  # every term stands under one alignment
        assert sum(flat.values()) == reached
        assert all(set(alignment) <= {LOST} for alignment in flat)


@given(st.lists(st.permutations(range(3)), min_size=3, max_size=3))
def test_composition_is_associative(steps: list[list[int]]) -> None:
    for losses in itertools.product(range(LOST, 3), repeat=3):
        first, second, third = (
            tuple(LOST if at == lost else d for at, d in enumerate(step))
            for step, lost in zip(steps, losses, strict=True)
        )
        assert compose(compose(first, second), third) == compose(first, compose(second, third))
