"""Random programs in Python: whatever they do with a value, the mean is the exact gradient."""

import pytest
from hypothesis import HealthCheck, Phase, assume, given, note, seed, settings
from programs.python import PythonProgram, beside, python_programs
from programs.verdict import verdict_on

SHARDS, EXAMPLES = 2, 75


# Some add what they have detached again, of which a warning says what it looks like.
@pytest.mark.filterwarnings("ignore::ancestral.errors.StraightThroughWarning")
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize("shard", range(SHARDS))
def test_mean_is_the_exact_gradient(shard: int) -> None:
    @seed(shard)  # derived from the function, it would be the same for all
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(program=python_programs())
    def check(program: PythonProgram) -> None:
        found = verdict_on(program, beside(program.parameters[0]))
        assume(found.kind not in ("trivial", "impossible"))
        note(program.source)
        assert found.kind in ("exact", "caught"), found.text

    check()
