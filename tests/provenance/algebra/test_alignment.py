"""Alignments as relations: every operation against the set of pairs of elements that it means."""

import itertools
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ancestral.provenance.algebra.alignment import (
    LOST,
    Alignment,
    Regroup,
    Shape,
    compose,
    fit,
    regroup,
)
from ancestral.provenance.algebra.factors import Factor
from ancestral.provenance.algebra.overlap import MOST_CLAIMS, disjoint, joined, meet, with_claim
from relations import Pairs, alignments, pairs

shapes = st.lists(st.sampled_from([1, 2, 3, 4, 6]), max_size=2).map(tuple)
laws = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def is_simple(alignment: Alignment) -> bool:
    return all(isinstance(dim, int) for dim in alignment.dims)


@laws
@given(st.data())
def test_composition_has_every_pair_that_two_steps_make(data: st.DataObject) -> None:
    a, b, c = (data.draw(shapes) for _ in range(3))
    outer, inner = data.draw(alignments(a, b)), data.draw(alignments(b, c))
    expected: Pairs = {
        (x, z) for x, y in pairs(outer, a, b) for other, z in pairs(inner, b, c) if y == other
    }
    found = compose(outer, inner)
    both = set() if found is None else pairs(found, a, c)
    assert both >= expected
    if is_simple(outer) and is_simple(inner):
        assert both == expected


@laws
@given(st.data())
def test_composition_is_associative_but_for_merged_dimensions(data: st.DataObject) -> None:
    a, b, c, d = (data.draw(shapes) for _ in range(4))
    steps = [data.draw(alignments(*ends)) for ends in ((a, b), (b, c), (c, d))]
    if all(map(is_simple, steps)):
        left, right = compose(steps[0], steps[1]), compose(steps[1], steps[2])
        one = None if left is None else compose(left, steps[2])
        other = None if right is None else compose(steps[0], right)
        found = [set() if each is None else pairs(each, a, d) for each in (one, other)]
        assert found[0] == found[1]


@laws
@given(st.data())
def test_two_relations_are_told_apart_joined_and_met(data: st.DataObject) -> None:
    ours, theirs = data.draw(shapes), data.draw(shapes)
    a, b = (data.draw(alignments(ours, theirs)) for _ in range(2))
    first, second = pairs(a, ours, theirs), pairs(b, ours, theirs)
    if disjoint(a, b):
        assert not first & second
    both = joined(a, b)
    if both is not None:
        assert pairs(both, ours, theirs) == first | second
    assert pairs(meet(a, b), ours, theirs) >= first | second


@laws
@given(st.data())
def test_claims_share_no_pair_and_lose_none(data: st.DataObject) -> None:
    ours, theirs = data.draw(shapes), data.draw(shapes)
    given_claims = data.draw(st.lists(alignments(ours, theirs), max_size=5))
    claims: tuple[Alignment, ...] = ()
    for claim in given_claims:
        claims = with_claim(claims, claim)
    found = [pairs(claim, ours, theirs) for claim in claims]
    together = set().union(*found)
    assert sum(map(len, found)) == len(together)
    assert together >= set().union(*(pairs(claim, ours, theirs) for claim in given_claims))


def test_elements_that_follow_each_other_become_one_aligned_dimension() -> None:
    claims: tuple[Alignment, ...] = ()
    for n in range(50):
        claims = with_claim(claims, Alignment((LOST,), ((0, n, n + 1),), ((0, n, n + 1),)))
    assert claims == (Alignment((0,), ((0, 0, 50),), ((0, 0, 50),)),)


def test_too_many_claims_become_one() -> None:
    claims: tuple[Alignment, ...] = ()
    for n in range(MOST_CLAIMS + 1):
        claims = with_claim(claims, Alignment((LOST,), ((0, n, n + 1),), ((0, 2 * n, 2 * n + 1),)))
    (claim,) = claims
    assert claim.dims == (LOST,)


@laws
@given(st.data())
def test_a_reshape_has_every_pair_at_its_new_place(data: st.DataObject) -> None:
    old = data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), max_size=3).map(tuple))
    ways = [
        new
        for rank in range(4)
        for new in itertools.product([1, 2, 3, 4, 6, 8, 12, 18, 24], repeat=rank)
        if math.prod(new) == math.prod(old)
    ]
    new, theirs = data.draw(st.sampled_from([*ways, old])), data.draw(shapes)
    inner = data.draw(alignments(old, theirs))
    found = pairs(regroup(Regroup(old, new), inner), new, theirs)

    def moved(place: Shape) -> Shape:
        flat = np.ravel_multi_index(place, old) if old else 0
        return tuple(int(n) for n in np.unravel_index(flat, new)) if new else ()

    assert found >= {(moved(x), y) for x, y in pairs(inner, old, theirs)}


def test_merging_dimensions_and_splitting_them_again_loses_nothing() -> None:
    start = Alignment((0, LOST, 2))
    there = regroup(Regroup((2, 3, 4), (24,)), start)
    assert there.dims == ((Factor(0, 2), Factor(LOST, 3), Factor(2, 4)),)
    assert regroup(Regroup((24,), (2, 3, 4)), there) == start


def test_a_dimension_that_changes_its_size_is_lost_and_keeps_its_window() -> None:
    step = Alignment((0, 1), there=((0, 2, 4), (1, 0, 3)))
    assert fit(step, (5, 3), (2, 3)) == Alignment((0, 1), there=((0, 2, 4),))
    assert fit(step, (5, 3), (9, 3)) == Alignment((LOST, 1), there=((0, 2, 4),))
