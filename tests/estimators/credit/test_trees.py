"""The credit of sites in trees, beside that of sets of terms, and its cost on long ones."""

import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ancestral.estimators.credit import plan
from ancestral.estimators.credit.credit import Credit, by_element
from ancestral.tools.bench.scale import SHAPES, structure_of
from ancestral.trace.graph.structure import Entries, Structure, TermShape, Vertex
from ancestral.trace.graph.trees import Trees
from relations import alignments

SIZE = 3


@st.composite
def forests(draw: st.DrawFn, most: int = 1) -> Structure:
    """Draw sites with at most so many parents each, and terms of one site each, or of two."""
    ranks = [draw(st.integers(0, 2)) for _ in range(draw(st.integers(1, 7)))]

    def entries(rank: int, ancestors: int, count: int) -> Entries:
        found: Entries = ()
        for ancestor in draw(st.permutations(range(ancestors)))[:count]:
            relation = alignments((SIZE,) * rank, (SIZE,) * ranks[ancestor])
            found += ((draw(relation), (ancestor,)),)
        return found

    sites = tuple(
        Vertex(
            f"z{at}",
            (SIZE,) * rank,
            entries(rank, at, draw(st.integers(0, most))),
            needs_score=draw(st.integers(0, 3)) > 0,
        )
        for at, rank in enumerate(ranks)
    )
    term_ranks = [draw(st.integers(0, 2)) for _ in range(draw(st.integers(1, 6)))]
    terms = tuple(
        TermShape((SIZE,) * rank, entries(rank, len(ranks), draw(st.integers(1, most))))
        for rank in term_ranks
    )
    return Structure(sites, terms)


def by_sets(structure: Structure, values: Sequence[Tensor]) -> list[Credit]:
    """Return the credit that is found by sets of terms, as if no site stood in a tree."""
    anew = Structure(structure.sites, structure.terms)
    with pytest.MonkeyPatch.context() as patch:
        nowhere = SimpleNamespace(has=[False] * len(structure.sites))
        patch.setattr(plan, "Trees", lambda _: nowhere)
        return by_element(anew, values)


def compare(structure: Structure) -> None:
    values = [torch.rand(term.shape, dtype=torch.float64) for term in structure.terms]
    ours, theirs = by_element(structure, values), by_sets(structure, values)
    assert [credit.name for credit in ours] == [credit.name for credit in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        whole = [
            torch.zeros(mine.shape, dtype=torch.float64) + each.total for each in (mine, other)
        ]
        torch.testing.assert_close(*whole)
        torch.testing.assert_close(mine.joint, other.joint)
        for dim in range(len(mine.shape)):
            assert mine.is_apart(dim) == other.is_apart(dim)


@given(forests())
def test_the_credit_in_trees_is_that_of_sets_of_terms(structure: Structure) -> None:
    assert all(Trees(structure).has[n] for n, reaches in enumerate(structure.reaches) if reaches)
    compare(structure)


@given(forests(most=2))
def test_some_sites_stand_in_trees_and_others_do_not(structure: Structure) -> None:
    compare(structure)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_many_sites(shape: str) -> None:
    for batch in (1, 3):
        compare(structure_of(SHAPES[shape](200, random.Random(0)), batch))


def test_which_sites_stand_in_trees() -> None:
    """Those of a component in which a site has two parents, or a term depends on two, do not."""
    structure = structure_of([[], [0], [], [2], [2], [3, 4], [], [6]], batch=1)
    assert Trees(structure).has == [True, True, False, False, False, False, True, True]
    shared = TermShape((), ((structure.terms[0].entries[0][0], (6, 7)),))
    both = Structure(structure.sites, (*structure.terms, shared))
    assert Trees(both).has == [True, True] + [False] * 6
    none = Structure(structure.sites, structure.terms[:1])
    assert Trees(none).has == [True] + [False] * 7  # the others reach no term


@pytest.mark.parametrize("shape", ["chain", "tree"])
def test_each_site_of_a_tree_is_one_step(shape: str) -> None:
    structure = structure_of(SHAPES[shape](1000, random.Random(0)), batch=1)
    found = plan.plan_of(structure, [torch.zeros(())] * 1000)
    assert len(found) == 1000
    assert sum(map(len, found._terms)) == 1000
    assert sum(map(len, found._bases)) == 999
