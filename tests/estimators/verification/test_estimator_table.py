"""Of every estimator and kind of program: the mean is exact, or the site is refused by name.

The whole table, `tests/estimator_table.py`, takes long; here are its cells of few outcomes.
"""

import pytest
from estimator_table import BIASED, PROGRAMS, UNBIASED, verified

QUICK = ("classes of 4", "one-hot of 3")
OF_RUNS = [name for name in UNBIASED if not name.startswith(("REBAR", "RELAX"))]
"""The others have continuous noise, which takes long to integrate."""


@pytest.mark.parametrize("title", QUICK)
def test_unbiased_estimators_have_the_exact_mean_or_refuse(title: str) -> None:
    program = PROGRAMS[title]._replace(outcomes=300)
    cells = {name: verified(program, UNBIASED[name], draws=8) for name in OF_RUNS}
    assert all(cell.is_right for cell in cells.values()), cells
    assert sum(cell.text == "exact" for cell in cells.values()) > 8
    assert cells["LocalExpectation()"].text == "exact"


def test_a_biased_estimator_is_called_so() -> None:
    estimator = BIASED["StraightThrough()"]
    cell = verified(PROGRAMS["bits with own costs"], estimator, draws=0, may_be_biased=True)
    assert cell.text == "BIASED"


def test_second_derivatives_are_exact_or_refused() -> None:
    program = PROGRAMS["three layers, order 2"]
    names = ("auto", "score", "DisARM()", "MeasureValued()", "RLOO(2)")
    cells = {name: verified(program, UNBIASED[name], draws=0) for name in names}
    assert [cell.text for cell in cells.values()] == ["exact", "exact", *["refused"] * 3], cells
    assert all(cell.is_right for cell in cells.values()), cells
