"""Steps of the benchmarks: how often one calls a function of the library, which no load changes."""

import subprocess
import sys
from pathlib import Path

MOST = {
    "one vector site": 284,
    "belief net at batch 64": 825,
    "autoencoder of 20 categories at batch 64": 735,
    "chain of 80": 8_480,
    "chain of 80 at batch 64": 9_120,
}
COUNTING = """
from ancestral.tools.bench.call_counts import trip
from ancestral.tools.bench.steps import MODELS

for words, (make, _, _) in MODELS.items():
    model = make()
    for _ in range(3):
        model.ours()
    print(words, trip(model.ours).calls, sep=": ")
"""


def test_a_step_of_a_known_shape_calls_few_functions() -> None:
    # In a process of its own: a recording looks for the classes of distributions of other tests.
    told = subprocess.run(
        [sys.executable, "-c", COUNTING],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    calls = dict(line.split(": ") for line in told.stdout.splitlines())
    assert calls.keys() == MOST.keys()
    assert {words: int(count) for words, count in calls.items() if int(count) > MOST[words]} == {}
