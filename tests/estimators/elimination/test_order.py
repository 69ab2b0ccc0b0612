"""The elimination order: no site is forgotten, and no order that is known is cheaper."""

import itertools
import math
import random
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from networks import NAMES, Network, network
from torch.distributions import Categorical

import ancestral as an
from ancestral.estimators.elimination import order as elimination_order
from ancestral.estimators.elimination.order import Axes, Step, steps_of
from ancestral.trace.context.place import Location
from ancestral.trace.handlers import enumerate as enumeration
from ancestral.trace.nodes.enum_dims import Variable

HERE = Location("here.py", 1, "here")


def variables_of(count: int, sizes: Sequence[int]) -> list[Variable]:
    return [Variable(f"z{i}", HERE, -1, size) for i, size in zip(range(count), sizes, strict=True)]


def scopes_of(net: Network) -> tuple[list[Any], dict[Any, int], list[Variable]]:
    sizes = [net.tables[name].shape[-1] for name in net.parents]
    own = dict(zip(net.parents, variables_of(len(sizes), sizes), strict=True))
    tables = [frozenset([own[v], *(own[p] for p in net.parents[v])]) for v in net.parents]
    return tables, {v: v.size for v in own.values()}, list(own.values())


def cost_of_order(tables: Sequence[Axes], order: Sequence[Variable]) -> int:
    """Return how many elements the products of an order have, by its definition."""
    left, total = list(tables), 0
    for variable in order:
        product = frozenset[object]().union(*(axes for axes in left if variable in axes))
        left = [axes for axes in left if variable not in axes] + [product - {variable}]
        total += math.prod(axis.size for axis in product if isinstance(axis, Variable))
    return total


def cost(steps: Sequence[Step]) -> int:
    return sum(step.elements for step in steps)


@pytest.mark.parametrize("seed", range(20))
def test_each_site_is_summed_out_once_at_a_cost_near_the_least_of_all_orders(seed: int) -> None:
    rng = random.Random(seed)
    count = rng.randint(1, 6)
    own = variables_of(count, [rng.randint(2, 5) for _ in range(count)])
    tables = [
        frozenset([v, *rng.sample(own[:i], min(i, rng.randint(0, 3)))]) for i, v in enumerate(own)
    ]
    summed = [v for v in own if rng.random() < 0.8]  # the rest are of a shallower plate
    steps = steps_of(tables, {v: v.size for v in own}, summed)
    order = [step.variable for step in steps]
    assert sorted(order, key=own.index) == summed
    assert cost(steps) == cost_of_order(tables, order)
    least = min(cost_of_order(tables, each) for each in itertools.permutations(summed))
    assert least <= cost(steps) <= 1.3 * least


def test_each_table_is_multiplied_once_and_before_the_site_that_it_has() -> None:
    tables, sizes, own = scopes_of(network("alarm"))
    steps = steps_of(tables, sizes, own)
    left = dict(enumerate(tables))
    for number, step in enumerate(steps):
        joined = [left.pop(n) for n in step.joined]
        assert all(step.variable in axes for axes in joined)
        assert not any(step.variable in axes for axes in left.values())
        left[len(tables) + number] = frozenset[object]().union(*joined) - {step.variable}
    assert not any(left.values())


@pytest.mark.parametrize("name", NAMES)
def test_neither_order_alone_is_cheaper(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tables, sizes, own = scopes_of(network(name))
    both = cost(steps_of(tables, sizes, own))
    path = cost_of_order(tables, elimination_order._path_order(tables, sizes, own))
    monkeypatch.setattr(elimination_order, "_MOST_SHARED", 0)
    assert both == min(path, cost(steps_of(tables, sizes, own)))


def test_each_of_the_orders_is_the_cheaper_for_some_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scopes = {name: scopes_of(network(name)) for name in NAMES}
    path = {n: cost_of_order(s[0], elimination_order._path_order(*s)) for n, s in scopes.items()}
    monkeypatch.setattr(elimination_order, "_MOST_SHARED", 0)
    least_first = {name: cost(steps_of(*scope)) for name, scope in scopes.items()}
    assert path["insurance"] < 0.9 * least_first["insurance"]
    assert least_first["alarm"] < 0.9 * path["alarm"]


@pytest.mark.parametrize("length", [5, 200])
def test_no_product_of_a_chain_has_more_than_two_of_its_steps(length: int) -> None:
    own = variables_of(length, [8] * length)
    tables: list[Axes] = [frozenset(own[max(t - 1, 0) : t + 1]) for t in range(length)]
    tables += [frozenset([v]) for v in own]
    steps = steps_of(tables, {v: 8 for v in own}, own)
    assert max(step.elements for step in steps) == 64
    assert len(steps) == length


def test_a_network_where_the_path_is_followed_has_the_evidence_of_pgmpy() -> None:
    net = network("insurance")
    evidence = {"Age": 1, "Accident": 2}
    states: dict[str, torch.Tensor] = {}
    with an.record() as trace, enumeration(first_dim=-1):
        for name in net.parents:
            row = tuple(states[parent] for parent in net.parents[name])
            seen = torch.tensor(evidence[name]) if name in evidence else None
            states[name] = an.sample(name, Categorical(net.tables[name][row]), obs=seen)
    names = {v: net.source.get_cpds(v).state_names[v] for v in evidence}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pgmpy and what it imports
        from pgmpy.inference import VariableElimination

        joint = VariableElimination(net.source).query(list(evidence), show_progress=False)
    expected = joint.get_value(**{v: names[v][state] for v, state in evidence.items()})
    assert an.infer.log_marginal(trace).exp().item() == pytest.approx(expected, rel=1e-9)
