"""Guide order: the parents that are suggested separate each latent site, and none is too many."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-untyped-call"

import random

import pytest
import torch
from torch.distributions import Bernoulli

import ancestral as an


def run(rng: random.Random) -> an.Trace:
    """Run a random discrete network of up to six sites, some of them observed."""
    with an.record() as trace:
        values: list[torch.Tensor] = []
        for i in range(rng.randint(2, 6)):
            parents = [value for value in values if rng.random() < 0.5]
            table = torch.rand((2,) * len(parents))
            data = torch.tensor(1.0) if rng.random() < 0.35 else None
            probs = table[tuple(value.long() for value in parents)]
            values.append(an.sample(f"s{i}", Bernoulli(probs), obs=data))
    return trace


@pytest.mark.parametrize("seed", range(60))
def test_each_site_is_separated_from_the_earlier_ones_by_no_more_than_its_parents(
    seed: int,
) -> None:
    trace = run(random.Random(seed))
    graph = trace.graph
    data = {node.name for node in trace.observation_nodes}
    found = an.infer.suggest_guide_order(trace)
    assert set(found) == set(trace) - data
    earlier: set[str] = set()
    for name, parents in found.items():
        assert parents <= earlier
        assert graph.d_separated(name, earlier - parents, parents | data)
        for parent in parents:
            others = parents - {parent}
            assert not graph.d_separated(name, (earlier - others), others | data)
        earlier.add(name)
