"""Every op in torch's own database, in all ways to call it, against brute force.

An op may give other values, types or gradients to a tracked tensor than to a plain one in no case;
its results carry every source that a perturbation shows them to depend on; and no alignment claims
more than the perturbations of slices and of single elements show.
"""

import pytest
from sweep.database import OPS, UNDEFINED, sweep
from sweep.table import table


@pytest.mark.parametrize("name", OPS)
def test_an_op_keeps_its_values_its_sources_and_claims_no_more_than_brute_force_shows(
    name: str,
) -> None:
    assert sweep(name).problems == []
    table.ops.add(name)


@pytest.mark.parametrize("name", OPS)
def test_an_op_is_followed_or_a_reason_says_why_it_is_not(name: str) -> None:
    findings = sweep(name)
    assert findings.follows or findings.reason(name) is not None


@pytest.mark.parametrize("name", sorted(UNDEFINED))
def test_an_op_whose_values_are_said_to_be_undefined_gives_any(name: str) -> None:
    assert name in OPS
    assert sweep(name).calls == 0
