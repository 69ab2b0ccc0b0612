"""Steps of the benchmarks: how often one calls a function of the library, which no load changes."""

import pytest

from ancestral.tools.bench.call_counts import trip
from ancestral.tools.bench.steps import MODELS

MOST = {
    "one vector site": 285,
    "belief net at batch 64": 1_080,
    "autoencoder of 20 categories at batch 64": 1_100,
    "chain of 80": 10_100,
    "chain of 80 at batch 64": 10_900,
}


@pytest.mark.parametrize("words", MODELS)
def test_a_step_of_a_known_shape_calls_few_functions(words: str) -> None:
    make, _, _ = MODELS[words]
    model = make()
    for _ in range(3):
        model.ours()
    assert trip(model.ours).calls <= MOST[words]
