"""Agreement: every row keeps its bound, and another model would not."""

import math

import pytest
import torch

from ancestral.tools.bench import agreement
from ancestral.tools.bench.agreement import agreement_rows
from ancestral.tools.bench.recording import recording_rows
from ancestral.tools.bench.rows import Row


def test_each_result_agrees_with_what_is_exact() -> None:
    torch.manual_seed(0)
    rows = agreement_rows(draws=3, length=10, queries=50, networks=["asia", "sachs"])
    assert len(rows) == 5
    assert all(row.bound is not None and row.is_kept for row in rows), rows


def test_the_gradient_of_another_model_misses_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = agreement._pair
    monkeypatch.setattr(agreement, "_pair", lambda q, p: whole(q, 1.01 * p))
    assert agreement.gradient_error() > 1e-3


def test_a_figure_that_is_no_number_misses_its_bound() -> None:
    assert not Row("", math.nan, 1.0).is_kept
    assert Row("", 1.0, 1.0).is_kept
    assert Row("", math.nan).is_kept


def test_recordings_are_compared_with_plain_draws() -> None:
    rows = recording_rows(size=5, rounds=1)
    assert [row.bound for row in rows].count(1.5) == 3
    assert all(math.isfinite(row.figure) and row.figure > 0 for row in rows)
