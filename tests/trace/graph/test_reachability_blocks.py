"""Reachability in blocks: that of sets of terms, and the same credit to the last bit."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ancestral.estimators.credit import plan
from ancestral.estimators.credit.credit import by_element
from ancestral.provenance.algebra.alignment import Alignment
from ancestral.tools.bench.scale import SHAPES, structure_of
from ancestral.trace.graph.reachability import downstream
from ancestral.trace.graph.reachability_blocks import differences, one_alignment
from ancestral.trace.graph.structure import Structure, TermShape, Vertex

ALONG = Alignment(())


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Return sites with some of the earlier ones as parents, and terms of any of them."""
    count = draw(st.integers(1, 12))
    rows = [draw(st.sets(st.integers(0, n - 1), max_size=4)) if n else set() for n in range(count)]
    terms = draw(st.lists(st.sets(st.integers(0, count - 1), max_size=3), max_size=2_500))
    return Structure(
        tuple(
            Vertex(f"z{n}", (), ((ALONG, tuple(sorted(row))),) if row else (), needs_score=True)
            for n, row in enumerate(rows)
        ),
        tuple(TermShape((), ((ALONG, tuple(sorted(of))),) if of else ()) for of in terms),
    )


def reached(structure: Structure) -> list[set[int]]:
    """Return what each site reaches, put together of differences."""
    bases, terms, starts = differences(structure, [False] * len(structure.sites))
    found: list[set[int]] = [set() for _ in structure.sites]
    for site in reversed(range(len(found))):
        more = terms[starts[site] : starts[site + 1]].tolist()
        assert more == sorted(more)
        base = found[bases[site]] if bases[site] >= 0 else set[int]()
        assert base.isdisjoint(more)
        found[site] = base.union(more)
    return found


def expected(structure: Structure) -> list[set[int]]:
    sets = [closure.values() for closure in downstream(structure)]
    return [{n for terms in some for n in terms.numbers().tolist()} for some in sets]


@given(structures())
def test_what_a_site_reaches_is_that_of_its_base_and_the_differences(structure: Structure) -> None:
    assert reached(structure) == expected(structure)


@pytest.mark.parametrize("shape", ["dag", "layered"])
def test_so_it_is_over_many_blocks(shape: str) -> None:
    structure = structure_of(SHAPES[shape](5_000, random.Random(0)), 1)
    assert reached(structure) == expected(structure)


@pytest.mark.parametrize("shape", ["dag", "layered"])
@pytest.mark.parametrize(("size", "batch"), [(900, 1), (300, 8)])
def test_the_credit_is_the_same(
    shape: str, size: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[
        tuple[list[tuple[str, list[tuple[torch.Tensor, frozenset[int]]]]], torch.Tensor]
    ] = []
    for many in (size, size - 1):
        monkeypatch.setattr(plan, "MANY", many)
        structure = structure_of(SHAPES[shape](size, random.Random(1)), batch)
        whole = torch.randint(100, (size, *structure.sites[0].shape)).double()
        values = list(whole if not found else found[0][1])
        given_to = by_element(structure, values)
        found.append(([(c.name, [(p.value, p.apart) for p in c.parts]) for c in given_to], whole))
    (sets, _), (blocks, _) = found
    for (name, ours), (other, theirs) in zip(sets, blocks, strict=True):
        assert name == other
        for (value, apart), (same, also) in zip(ours, theirs, strict=True):
            assert apart == also
            assert torch.equal(value, same)


def test_several_alignments_are_not_one() -> None:
    other = Alignment((0,))
    sites = (Vertex("a", (2,), (), True), Vertex("b", (), ((ALONG, (0,)),), True))
    assert one_alignment(Structure(sites, ()), [False, False]) == ALONG
    terms = (TermShape((2,), ((other, (0,)),)),)
    assert one_alignment(Structure(sites, terms), [False, False]) is None
    swapped = Alignment((1, 0))
    terms = (TermShape((2, 2), ((swapped, (0,)),)),)
    assert one_alignment(Structure(sites[:1], terms), [False]) is None
