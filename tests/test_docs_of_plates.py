"""The page on plates: its code runs, and prints what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import ancestral

TEXT = (Path(__file__).parent.parent / "docs" / "plates.md").read_text()


def test_the_example_runs_and_prints_what_the_page_says(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    command = [sys.executable, "-W", "error", "-c", block]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scale, *plates, error = done.stdout.splitlines()
    assert scale == "50.0"
    assert [line.split()[:2] for line in plates] == [["documents", "1000"], ["words", "30"]]
    assert "within plate 'documents'" in error
    assert "depends on other elements of site 'z'" in error
    assert (tmp_path / "plates.svg").read_text().startswith("<")


def test_every_name_of_the_library_is_public() -> None:
    assert set(re.findall(r"\ban\.(\w+)", TEXT)) <= set(ancestral.__all__)
