"""The table beside Storchastic: our side is exact, whether that is installed or not."""

import importlib.util

import pytest

from ancestral.tools.bench.peers.storchastic import ROWS, Compared, table


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.name}, {row.toy.name}")
def test_ours_are_exact(row: Compared) -> None:
    assert row.error() < 1e-8


def test_there_are_twelve_and_more() -> None:
    assert len({(row.name, row.toy.name, row.order) for row in ROWS}) >= 12


@pytest.mark.skipif(importlib.util.find_spec("storch") is not None, reason="it is installed")
def test_the_table_is_printed_without_it() -> None:
    lines = table(rows=ROWS[:1]).splitlines()
    assert lines[0].split()[:2] == ["estimator", "toy"]
    assert lines[1].startswith("DisARM")
    assert lines[1].endswith("is not installed")
