"""Plates that nobody declared: found where every path keeps a dimension, and nowhere else."""

import dataclasses
import itertools
import sys
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from ancestral.provenance.algebra.alignment import LOST, Alignment, compose, relates
from ancestral.provenance.algebra.factors import Factor
from ancestral.provenance.algebra.overlap import meet
from ancestral.tools.demo.belief_net import BeliefNet
from ancestral.trace.graph.find_plates import Extent, Link, Site, extents, kept
from ancestral.trace.nodes.plate_frame import Plate
from relations import alignments, elements

LOGITS = torch.linspace(-1.0, 1.0, 12).reshape(4, 3).requires_grad_()


def dims_of(plates: tuple[Extent, ...]) -> list[tuple[int, str]]:
    """Return the size of each plate, and its members as text."""
    return [(p.size, " ".join(f"{name}.{dim}" for name, dim in p.dims)) for p in plates]


def test_the_batch_of_a_belief_net_is_found_and_so_are_its_units() -> None:
    graph = an.graph(BeliefNet(), torch.ones(8, 64))
    assert dims_of(graph.plates) == [
        (8, "h1.0 h2.0 x.0 cost.0 cost_1.0"),
        (32, "h1.1"),
        (16, "h2.1 cost.1"),
        (64, "x.1"),
    ]
    assert [plate.name for plate in graph.plates] == [f"plate_{i}" for i in range(4)]
    assert not any(plate.is_declared for plate in graph.plates)


def test_a_dimension_that_moves_is_followed() -> None:
    with an.record() as trace:
        a = Bernoulli(logits=LOGITS).sample()
        Bernoulli(logits=a.T[:, :, None].expand(3, 4, 5)).sample()
    assert dims_of(trace.plates) == [
        (4, "a.0 bernoulli.1"),
        (3, "a.1 bernoulli.0"),
        (5, "bernoulli.2"),
    ]


def test_a_loss_may_sum_and_costs_that_keep_the_dimension_are_members() -> None:
    with an.record() as trace:
        a = Bernoulli(logits=LOGITS).sample()
        b = Bernoulli(logits=a + LOGITS).sample()
        loss = (a * b).exp().sum() + a.mean(0).exp().sum() + b.sum().exp()
    assert dims_of(trace.plates) == [(4, "a.0 b.0"), (3, "a.1 b.1")]
    an.backward(loss)
    assert dims_of(trace.plates) == [(4, "a.0 b.0 cost.0"), (3, "a.1 b.1 cost.1 cost_1.0")]


def test_a_cost_that_keeps_two_plates_of_unrelated_sites_makes_them_one() -> None:
    with an.record() as trace:
        a = Bernoulli(logits=LOGITS).sample()
        b = Bernoulli(logits=LOGITS).sample()
        an.cost("ab", a * b)
    assert dims_of(trace.plates) == [(4, "a.0 b.0 ab.0"), (3, "a.1 b.1 ab.1")]


def test_a_cost_of_all_pairs_leaves_two_plates_two() -> None:
    with an.record() as trace:
        a = Bernoulli(logits=LOGITS[:, 0]).sample()
        b = Bernoulli(logits=LOGITS[:, 1]).sample()
        an.cost("pairs", a[:, None] * b)
        an.cost("both", a * b)
    assert dims_of(trace.plates) == [(4, "a.0 b.0 both.0")]


def test_a_cost_that_keeps_a_site_and_mixes_its_parent_is_a_member_for_neither() -> None:
    with an.record() as trace:
        a = Bernoulli(logits=LOGITS[:, 0]).sample()
        b = Bernoulli(logits=a.roll(1)).sample()
        an.cost("ab", a * b)
    assert dims_of(trace.plates) == [(4, "a.0 ab.0"), (4, "b.0")] or dims_of(trace.plates) == [
        (4, "a.0"),
        (4, "b.0 ab.0"),
    ]


def test_an_escape_ties_what_comes_after_to_all_repetitions() -> None:
    with an.record() as trace:
        a = Bernoulli(logits=LOGITS).sample()
        sign = 1 if a.any() else -1
        b = Bernoulli(logits=a * sign).sample()
    assert dims_of(trace.plates) == [(4, "a.0"), (3, "a.1"), (4, "b.0"), (3, "b.1")]
    assert b.shape == (4, 3)


def test_declared_plates_have_their_names_and_take_in_what_belongs_to_them() -> None:
    with an.record() as trace:
        with an.plate("data", 100, subsample_size=4, dim=-2):
            a = Bernoulli(logits=LOGITS).sample()
        b = Bernoulli(logits=a + LOGITS).sample()
    data, found = trace.plates
    assert data == Extent("data", 100, 4, (("a", 0), ("b", 0)), is_declared=True)
    assert (found.name, found.size, found.sites) == ("plate_0", 3, ("a", "b"))
    assert b.shape == (4, 3)


def test_a_declared_plate_leaves_out_what_mixes_it_later() -> None:
    with an.record() as trace:
        with an.plate("data", 4, dim=-2):
            a = Bernoulli(logits=LOGITS).sample()
        b = Bernoulli(logits=a).sample()
        c = Bernoulli(logits=b.roll(1, 0) + a).sample()
        d = Bernoulli(logits=b + c).sample()
    declared = [plate for plate in trace.plates if plate.is_declared]
    assert dims_of(tuple(declared)) == [(4, "a.0")]
    assert d.shape == (4, 3)


def test_a_found_plate_has_no_name_that_was_declared() -> None:
    with an.record() as trace, an.plate("plate_0", 4, dim=-2):
        Bernoulli(logits=LOGITS).sample()
    assert [plate.name for plate in trace.plates] == ["plate_0", "plate_1"]


def test_two_declared_plates_stay_two_though_one_indexes_the_other() -> None:
    with an.record() as trace:
        with an.plate("rows", 4):
            a = Bernoulli(logits=LOGITS[:, 0]).sample()
        with an.plate("again", 4):
            Bernoulli(logits=a).sample()
    assert [plate.name for plate in trace.plates] == ["rows", "again"]


def test_an_extent_is_a_value() -> None:
    extent = Extent("data", 4, 4, (("a", 0), ("a", 1), ("b", 0)))
    assert extent.sites == ("a", "b")
    with pytest.raises(dataclasses.FrozenInstanceError):
        extent.name = "x"  # type: ignore[misc]


def test_a_member_of_two_dimensions_is_no_plate_but_for_what_is_declared() -> None:
    plate = Plate("data", 4, 4, -1)
    sites = [Site("a", (4,), declared=((plate, 0),)), Site("b", (4, 4))]
    found = extents(sites, [Link("a", "b", (0, 0))])
    assert dims_of(found) == [(4, "a.0")]
    assert extents([Site("a", (4,)), sites[1]], [Link("a", "b", (0, 0))]) == ()


Model = tuple[list[Site], list[Link]]


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draw sites of two sizes, and links whose alignments respect them."""
    shapes = draw(st.lists(st.lists(st.sampled_from([2, 3]), max_size=2), max_size=6))
    sites = [Site(f"s{i}", tuple(shape)) for i, shape in enumerate(shapes)]
    links: list[Link] = []
    for child, site in enumerate(sites):
        for parent in sites[:child]:
            if draw(st.booleans()):
                dims = [
                    draw(
                        st.sampled_from([LOST, *(d for d, n in enumerate(parent.shape) if n == m)])
                    )
                    for m in site.shape
                ]
                links.append(Link(parent.name, site.name, tuple(dims)))
    return sites, links


def by_brute_force(model: Model) -> list[set[tuple[str, int]]]:
    """Return the plates by their definition: over all pairs of members, all paths composed."""
    sites, links = model
    members = {(s.name, d): {(s.name, d)} for s in sites for d in range(len(s.shape))}
    for link in links:
        for dim, there in enumerate(link.dims):
            if there != LOST:
                joined = members[link.child, dim] | members[link.parent, there]
                for each in joined:
                    members[each] = joined
    paths: dict[tuple[str, str], Alignment] = {}
    for site in sites:
        for link in (link for link in links if link.child == site.name):
            edge = Alignment(link.dims)
            steps = {link.parent: edge}
            for (child, ancestor), known in list(paths.items()):
                if child == link.parent:
                    composed = compose(edge, known)
                    assert composed is not None
                    steps[ancestor] = composed
            for ancestor, step in steps.items():
                before = paths.get((site.name, ancestor), step)
                paths[site.name, ancestor] = meet(before, step)
    return [
        plate
        for plate in {id(m): m for m in members.values()}.values()
        if len({name for name, _ in plate}) == len(plate)
        and all(paths[t, s].dims[e] == d for s, d in plate for t, e in plate if (t, s) in paths)
    ]


@given(models())
def test_the_plates_found_are_those_of_the_definition(model: Model) -> None:
    found = [set(plate.dims) for plate in extents(*model)]
    expected = by_brute_force(model)
    assert sorted(map(sorted, found)) == sorted(map(sorted, expected))


SHAPE = (3, 4, 3)


@given(alignments(SHAPE, SHAPE))
def test_a_kept_dimension_relates_equal_indices_alone(alignment: Alignment) -> None:
    dims = kept(alignment)
    for here, there in itertools.product(elements(SHAPE), repeat=2):
        if relates(alignment, here, there):
            assert all(d == LOST or here[i] == there[d] for i, d in enumerate(dims))


def test_a_window_is_kept_where_it_is_not_moved() -> None:
    assert kept(Alignment((0,), ((0, 1, 3),), ((0, 1, 3),))) == (0,)
    assert kept(Alignment((0,), ((0, 1, 3),), ((0, 0, 2),))) == (LOST,)
    assert kept(Alignment((0,), (), ((0, 1, 3),))) == (LOST,)
    assert kept(Alignment((LOST,), ((0, 2, 3),), ((1, 2, 3),))) == (1,)
    assert kept(Alignment((LOST,), ((0, 2, 3),), ((1, 1, 2),))) == (LOST,)
    assert kept(Alignment(((Factor(0, 2), Factor(1, 3)),))) == (LOST,)


def test_a_chain_takes_steps_in_proportion() -> None:
    def steps(length: int) -> int:
        sites = [Site(f"s{i}", (8, 5)) for i in range(length)]
        links = [Link(a.name, b.name, (0, LOST)) for a, b in pairwise(sites)]
        events = itertools.count()
        sys.setprofile(lambda *_: next(events) and None)
        try:
            found = extents(sites, links)
        finally:
            sys.setprofile(None)
        assert len(found) == 1 + length
        return next(events)

    assert steps(4000) < 4.1 * steps(1000)


def test_the_readme_example_has_its_batch_and_its_bits() -> None:
    def model() -> Tensor:
        z = Bernoulli(logits=torch.zeros(64, 100, requires_grad=True)).sample()
        return (z - 0.45).pow(2).sum(1).mean()  # type: ignore[no-any-return]

    assert dims_of(an.graph(model).plates) == [(64, "z.0 cost.0"), (100, "z.1 cost.1")]
