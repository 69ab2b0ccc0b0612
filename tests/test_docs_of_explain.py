"""The page on explanations: its code runs, and prints what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import ancestral

TEXT = (Path(__file__).parent.parent / "docs" / "explain.md").read_text()


def test_the_example_runs_and_prints_what_the_page_says(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (expected,) = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_every_name_of_the_library_is_public() -> None:
    assert set(re.findall(r"\ban\.(\w+)", TEXT)) <= set(ancestral.__all__)
