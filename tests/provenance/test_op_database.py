"""Every op in torch's own database, in all ways to call it, against brute force.

An op gives other values, types or gradients to a tracked tensor than to a plain one in no case; its
results carry every source that a perturbation shows them to depend on; and no alignment claims
more than the perturbations of slices and of single elements show.
"""

import pytest

from sweep.database import OPS, UNDEFINED, reason, sweep
from sweep.table import table


@pytest.mark.parametrize("name", OPS)
def test_an_op_keeps_values_and_sources_and_claims_no_more_than_brute_force_shows(
    name: str,
) -> None:
    findings = sweep(name)
    why = reason(name)
    if why is not None:
        heading = f"not applicable: {why}"
    else:
        heading = "with an alignment" if findings.aligns else "sources without an alignment"
    table.put("ops of the database", heading, name)
    assert findings.problems == []


def test_every_op_is_followed_unless_it_gives_or_takes_nothing_to_follow() -> None:
    assert [name for name in OPS if reason(name) == "does not run here"] == []


def test_what_is_said_to_be_undefined_is_in_the_database() -> None:
    assert set(OPS) >= UNDEFINED
