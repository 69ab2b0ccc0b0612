"""Compiled steps of modules that are trained on two ranks, and what recordings of those miss."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("ranks.py")
CHECKS = (
    *("around", "within a loss", "around a step", "around a wrapped module", "wrapped itself"),
    *("modules that change", "steps that add up", "baselines"),
)


def test_every_order_of_wrapping_is_compiled_with_the_gradient_of_one_process(
    tmp_path: Path,
) -> None:
    command = [sys.executable, str(SCRIPT), f"file://{tmp_path / 'rendezvous'}"]
    ranks = [subprocess.Popen([*command, str(r)], stdout=subprocess.PIPE) for r in range(2)]
    found = [rank.communicate(timeout=280)[0].decode().splitlines() for rank in ranks]
    expected = [f"{name} True" for name in CHECKS]
    assert [[line.strip() for line in lines] for lines in found] == [expected, expected]
