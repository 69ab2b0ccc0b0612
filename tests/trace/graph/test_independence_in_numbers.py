"""Independence in numbers: what the graph says is what the exact joint probabilities do.

The tables of a small network are random, so that whatever may depend does. All queries are compared
with the joint distribution itself, which knows nothing of graphs.
"""

import itertools
import random
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an


class Network:
    """A random network of coins: the table of each, [*parents], and which of them are seen."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        generator = torch.Generator().manual_seed(seed)
        self.names = [f"s{i}" for i in range(rng.randint(3, 6))]
        self.parents = {
            name: [other for other in self.names[:i] if rng.random() < 0.45]
            for i, name in enumerate(self.names)
        }
        self.tables = {
            name: 0.1 + 0.8 * torch.rand((2,) * len(parents), generator=generator).double()
            for name, parents in self.parents.items()
        }
        self.seen = {name for name in self.names if rng.random() < 0.35}

    def run(self) -> None:
        """Draw all coins, those that are seen as one."""
        values: dict[str, Tensor] = {}
        for name in self.names:
            row = tuple(values[parent].long() for parent in self.parents[name])
            data = torch.tensor(1.0).double() if name in self.seen else None
            values[name] = an.sample(name, Bernoulli(self.tables[name][row]), obs=data)

    def joint(self) -> Tensor:
        """Return the probabilities of all values, one dimension for each coin."""
        joint = torch.zeros((2,) * len(self.names)).double()
        for values in itertools.product((0, 1), repeat=len(self.names)):
            at = dict(zip(self.names, values, strict=True))
            p = torch.ones(()).double()
            for name in self.names:
                one = self.tables[name][tuple(at[parent] for parent in self.parents[name])]
                p = p * (one if at[name] else 1 - one)
            joint[values] = p
        return joint

    def are_independent(self, a: str, b: str, given: Iterable[str], at: Iterable[str] = ()) -> bool:
        """Return whether two coins are independent, given others; of `at`, only that they are 1."""
        joint, axes = self.joint(), list(self.names)
        for name in at:
            joint = joint.select(axes.index(name), 1)
            axes.remove(name)
        kept = [a, b, *given]
        for name in [name for name in axes if name not in kept]:
            joint = joint.sum(axes.index(name))
            axes.remove(name)
        joint = joint.permute([axes.index(name) for name in kept]).reshape(2, 2, -1)
        product = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
        error = (joint * joint.sum((0, 1), keepdim=True) - product).abs().max()
        assert not 1e-14 < error < 1e-10  # there is no doubt
        return bool(error <= 1e-14)


def subsets(names: list[str]) -> Iterable[tuple[str, ...]]:
    return itertools.chain.from_iterable(
        itertools.combinations(names, size) for size in range(len(names) + 1)
    )


NETWORKS = pytest.mark.parametrize("seed", range(25))


@NETWORKS
def test_sites_are_d_separated_where_their_probabilities_are_independent(seed: int) -> None:
    network = Network(seed)
    with an.record() as trace:
        network.run()
    graph = trace.graph
    for a, b in itertools.combinations(network.names, 2):
        for given in subsets([name for name in network.names if name not in (a, b)]):
            assert graph.d_separated(a, b, given) == network.are_independent(a, b, given)


@NETWORKS
def test_the_moral_graph_and_blankets_are_those_of_the_probabilities(seed: int) -> None:
    network = Network(seed)
    with an.record() as trace:
        network.run()
    moral = trace.graph.moralized()
    for a, b in itertools.combinations(network.names, 2):
        rest = [name for name in network.names if name not in (a, b)]
        is_coupled = not network.are_independent(a, b, rest)
        assert moral.has_edge(a, b) is is_coupled
        assert (b in trace.graph.markov_blanket(a)) is is_coupled


@NETWORKS
def test_what_depends_on_each_other_given_the_data_is_coupled_in_the_posterior(seed: int) -> None:
    network = Network(seed)
    with an.record() as trace:
        network.run()
    found = an.infer.posterior_dependencies(trace)
    free = [name for name in network.names if name not in network.seen]
    assert list(found) == free
    for a, b in itertools.combinations(free, 2):
        rest = [name for name in free if name not in (a, b)]
        assert (b in found[a]) is not network.are_independent(a, b, rest, network.seen)
        assert a not in found[b]


@NETWORKS
def test_a_guide_in_the_suggested_order_can_be_the_posterior(seed: int) -> None:
    network = Network(seed)
    with an.record() as trace:
        network.run()
    order = an.infer.suggest_guide_order(trace)
    assert set(order) == set(network.names) - network.seen
    earlier: list[str] = []
    for name, parents in order.items():
        for other in earlier:
            rest = [each for each in earlier if each != other]
            is_needed = not network.are_independent(name, other, rest, network.seen)
            assert (other in parents) is is_needed
        earlier.append(name)
