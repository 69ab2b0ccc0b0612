"""Reachability on random graphs, element by element, and its size on long ones."""

import random
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.estimators.credit.credit import by_element
from ancestral.provenance.algebra.alignment import Alignment, Shape
from ancestral.tools.bench.scale import SHAPES, structure_of
from ancestral.trace.graph.reachability import downstream, no_terms, reaches, term_set, union
from ancestral.trace.graph.structure import Entries, Structure, TermShape, Vertex
from relations import Pairs, alignments, pairs

SIZE = 3


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    """Draw a graph whose edges have windows: any site may depend on those before it."""
    count = draw(st.integers(1, 5))
    ranks = [draw(st.integers(0, 2)) for _ in range(count)]

    def entries(rank: int, ancestors: int) -> Entries:
        found: dict[Alignment, set[int]] = {}
        for ancestor in range(ancestors):
            if draw(st.booleans()):
                alignment = draw(alignments((SIZE,) * rank, (SIZE,) * ranks[ancestor]))
                found.setdefault(alignment, set()).add(ancestor)
        return tuple((alignment, tuple(sorted(sites))) for alignment, sites in found.items())

    sites = tuple(
        Vertex(f"z{at}", (SIZE,) * rank, entries(rank, at), needs_score=True)
        for at, rank in enumerate(ranks)
    )
    term_ranks = [draw(st.integers(0, 2)) for _ in range(draw(st.integers(1, 4)))]
    terms = tuple(TermShape((SIZE,) * rank, entries(rank, count)) for rank in term_ranks)
    return Structure(sites, terms)


def by_paths(structure: Structure) -> list[dict[int, Pairs]]:
    """Return for each site, and each term, which elements reach which, along every path."""
    edges = [
        {
            parent: pairs(alignment, site.shape, structure.sites[parent].shape)
            for alignment, parents in site.incoming
            for parent in parents
        }
        for site in structure.sites
    ]
    found: list[dict[int, Pairs]] = [{} for _ in structure.sites]
    for number, term in enumerate(structure.terms):
        for alignment, sites in term.entries:
            for site in sites:
                met = pairs(alignment, term.shape, structure.sites[site].shape)
                found[site].setdefault(number, set()).update(met)
    for child in reversed(range(len(structure.sites))):
        for parent, step in edges[child].items():
            for number, met in found[child].items():
                through = {(x, z) for x, y in met for other, z in step if y == other}
                found[parent].setdefault(number, set()).update(through)
    return found


def claimed(structure: Structure) -> list[dict[int, list[Pairs]]]:
    """Return what is claimed, for each site and term: the pairs of each claim."""
    return [
        {
            number: [
                pairs(claim, structure.terms[number].shape, structure.sites[at].shape)
                for claim in claims
            ]
            for claims, terms in closure.items()
            for number in terms.numbers().tolist()
        }
        for at, closure in enumerate(downstream(structure))
    ]


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(structures())
def test_every_element_that_is_reached_is_claimed_and_no_pair_twice(structure: Structure) -> None:
    for truth, claims in zip(by_paths(structure), claimed(structure), strict=True):
        for number, met in truth.items():
            together = set().union(*claims.get(number, []))
            assert met <= together
        for found in claims.values():
            assert sum(map(len, found)) == len(set().union(*found))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(structures())
def test_credit_is_the_sum_of_the_claimed_elements_for_every_element(structure: Structure) -> None:
    torch.manual_seed(0)
    values = [
        torch.randn(term.shape, dtype=torch.float64, requires_grad=True) for term in structure.terms
    ]
    given_credit = {credit.name: credit for credit in by_element(structure, values)}
    for at, claims in enumerate(claimed(structure)):
        site = structure.sites[at]
        expected = torch.zeros(site.shape, dtype=torch.float64)
        for number, found in claims.items():
            for x, y in set().union(*found):
                expected[y] += values[number][x].detach()
        total = given_credit[site.name].total if site.name in given_credit else torch.zeros(())
        torch.testing.assert_close(total.detach().expand(site.shape).double(), expected)
        if site.name in given_credit:
            joint = given_credit[site.name].joint
            counts = torch.autograd.grad(joint, values, allow_unused=True, retain_graph=True)
            for number, count in enumerate(counts):
                reached = {x for x, _ in set().union(*claims.get(number, []))}
                assert count is not None or not reached
                assert count is None or set(count.flatten().tolist()) <= {0.0, 1.0}
                assert all(float(count[x]) == 1 for x in reached if count is not None)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(structures())
def test_a_part_that_is_kept_apart_reaches_no_other_element(structure: Structure) -> None:
    values = [torch.ones(term.shape, dtype=torch.float64) for term in structure.terms]
    for number, value in enumerate(values):
        ones = [v if n == number else torch.zeros_like(v) for n, v in enumerate(values)]
        found = {credit.name: credit for credit in by_element(structure, ones)}
        for at, claims in enumerate(claimed(structure)):
            site = structure.sites[at]
            if not (site.shape and site.name in found and number in claims):
                continue
            parts = [part for part in found[site.name].parts if bool(part.value.any())]
            pairs = set[tuple[Shape, Shape]]().union(*claims[number])
            for dim in set[int]().union(*(part.apart for part in parts)):
                reached: dict[Shape, set[int]] = {}
                for x, y in pairs:
                    reached.setdefault(x, set()).add(y[dim])
                assert all(len(rows) == 1 for rows in reached.values())
        assert value.sum() > 0


@st.composite
def pairs_of_sets(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """Draw two sets of numbers below an end, within a machine word or far apart."""
    end = draw(st.sampled_from([60, 64, 65, 1000]))
    some = st.sets(st.integers(0, end - 1), min_size=1).map(sorted)
    tails = st.integers(0, end - 1).map(lambda first: list(range(first, end)))
    both = st.tuples(some, tails).map(lambda two: sorted({*two[0], *two[1]}))
    numbers = st.one_of(some, tails, both)
    return end, draw(numbers), draw(numbers)


@settings(max_examples=500, deadline=None, derandomize=True, database=None)
@given(pairs_of_sets())
def test_sets_of_terms_are_sets(drawn: tuple[int, list[int], list[int]]) -> None:
    end, a, b = drawn
    ours, theirs = term_set(a, end), term_set(b, end)
    assert ours.numbers().tolist() == a
    assert ours.size == len(a)
    assert ours.is_one == (len(a) == 1)
    for found, expected in (
        (ours.union(theirs), {*a} | {*b}),
        (ours.common(theirs), {*a} & {*b}),
        (ours.without(theirs), {*a} - {*b}),
        (ours.union(theirs).beyond(ours), {*b} - {*a}),
    ):
        assert found.numbers().tolist() == sorted(expected)
        assert bool(found) == bool(expected)
        assert not expected or found == term_set(sorted(expected), end)
        assert found.is_one == (len(expected) == 1)
    assert ours.union(no_terms(end)) == ours
    assert ours.without(ours) == no_terms(end)
    assert union([ours, theirs, ours]).numbers().tolist() == sorted({*a, *b})


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_reached_in_a_large_graph_is_what_sets_say(shape: str) -> None:
    parents = list(SHAPES[shape](400, random.Random(1)))
    found = [{number} for number in range(len(parents))]  # a term for each site
    for number in reversed(range(len(parents))):
        for parent in parents[number]:
            found[parent] |= found[number]
    structure = structure_of(parents, batch=1)
    for closure, expected in zip(downstream(structure), found, strict=True):
        (terms,) = closure.values()
        assert terms.numbers().tolist() == sorted(expected)
    torch.manual_seed(0)
    values = list(torch.rand(len(parents), dtype=torch.float64))
    for credit, expected in zip(by_element(structure, values), found, strict=True):
        assert float(credit.total) == pytest.approx(sum(float(values[n]) for n in expected))


def chain(length: int) -> Structure:
    along = Alignment(())
    return Structure(
        tuple(
            Vertex(f"z{i}", (), ((along, (i - 1,)),) if i else (), needs_score=True)
            for i in range(length)
        ),
        tuple(TermShape((), ((along, (i,)),)) for i in range(length)),
    )


def tree(count: int) -> Structure:
    along = Alignment(())
    return Structure(
        tuple(
            Vertex(f"z{i}", (), ((along, ((i - 1) // 2,)),) if i else (), needs_score=True)
            for i in range(count)
        ),
        tuple(TermShape((), ((along, (i,)),)) for i in range(count)),
    )


def test_the_differences_of_a_chain_are_one_term_each() -> None:
    found = list(reaches(chain(200)))
    assert [reach.base for _, _, reach in found] == [None, *reversed(range(1, 200))]
    assert all(sum(t.size for t in reach.rest.values()) == 1 for _, _, reach in found)


def test_the_differences_of_a_tree_are_the_smaller_branch() -> None:
    found = list(reaches(tree(255)))
    total = sum(terms.size for _, _, reach in found for terms in reach.rest.values())
    assert total <= 255 * 8 / 2 + 255


@pytest.mark.usefixtures("uncollected")
def test_a_stack_that_is_read_in_a_loop_takes_steps_in_proportion() -> None:
    """Were every read to look at all that was stacked, four times the draws took sixteen times."""

    def seconds(count: int) -> float:
        start = time.process_time()
        with an.record():
            draws = [Bernoulli(logits=torch.zeros((), requires_grad=True)).sample()] * 2
            draws += [Bernoulli(logits=draws[0]).sample() for _ in range(count)]
            together = torch.stack(draws)
            costs = [together[n] * 2 for n in range(count)]
        assert len(costs) == count
        return time.process_time() - start

    few, many = (min(seconds(count) for _ in range(2)) for count in (400, 1600))
    assert many < 8 * few
