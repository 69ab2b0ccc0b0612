"""Networks: a program that draws from a known Bayesian network gives its graph back."""

import random

import pytest
from networks import NAMES, Network, network

import ancestral as an
from ancestral.trace.graph.graph import Graph


def recorded(net: Network) -> Graph:
    with an.record() as trace:
        net.named()
    return trace.graph


@pytest.mark.parametrize("name", NAMES)
def test_a_program_of_a_network_has_exactly_the_parents_in_its_file(name: str) -> None:
    net = network(name)
    graph = recorded(net)
    assert [v.name for v in graph.vertices] == list(net.parents)
    found = {name: graph.parents(name) for name in net.parents}
    assert found == {name: set(net.source.get_parents(name)) for name in net.parents}
    assert {(edge.parent, edge.child) for edge in graph.edges} == set(net.source.edges())


@pytest.mark.parametrize("name", NAMES)
def test_plain_draws_have_the_parents_in_the_file_too(name: str) -> None:
    net = network(name)
    with an.record() as trace:
        net.plain()
    graph = trace.graph
    own = dict(zip(trace, net.parents, strict=True))  # a draw in a loop is named by its variable
    found = {own[draw]: {own[parent] for parent in graph.parents(draw)} for draw in trace}
    assert found == {name: set(net.source.get_parents(name)) for name in net.parents}


@pytest.mark.parametrize("name", NAMES)
def test_d_separation_is_that_of_pgmpy(name: str) -> None:
    net = network(name)
    graph = recorded(net)
    rng = random.Random(name)
    answers: list[bool] = []
    for _ in range(1_000):
        a, b, *given = rng.sample(list(net.parents), rng.randint(2, 7))
        answers.append(graph.d_separated(a, b, given))
        assert answers[-1] != net.source.is_dconnected(a, b, given), (a, b, given)
    assert set(answers) == {True, False}


@pytest.mark.parametrize("name", NAMES)
def test_blankets_ancestors_and_moral_graphs_are_those_of_pgmpy(name: str) -> None:
    net = network(name)
    graph = recorded(net)
    moral = net.source.moralize()
    assert set(map(frozenset, graph.moralized().edges())) == set(map(frozenset, moral.edges()))
    for variable in net.parents:
        blanket = net.source.get_markov_blanket(variable)
        assert graph.markov_blanket(variable) == set(blanket), variable
        above = set(net.source.get_ancestors(variable)) - {variable}
        assert graph.ancestors(variable) == above, variable
