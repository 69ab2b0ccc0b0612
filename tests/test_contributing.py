"""The page for contributors: every line that its diffs add stands where they say."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
DIFFS = re.findall(r"```diff\n *--- a/(\S+)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("path", "diff"), DIFFS, ids=[path for path, _ in DIFFS])
def test_a_diff_is_of_the_file_that_it_names(path: str, diff: str) -> None:
    lines = (ROOT / path).read_text().splitlines()
    added = [line.strip()[1:] for line in diff.splitlines() if line.strip().startswith("+")]
    removed = [line.strip()[1:] for line in diff.splitlines() if line.strip().startswith("-")]
    assert added
    assert [line for line in added if line not in lines] == []
    assert [line for line in removed if line in lines] == []


def test_every_place_that_a_text_names_is_there() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    places = re.findall(r"`((?:provenance|trace|estimators|tools|tests)/[\w/.]*)`", TEXT + glossary)
    assert len(places) > 30
    assert [place for place in places if not (ROOT / place).exists()] == []


def test_every_command_is_a_target_of_make() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make ([\w-]+)", TEXT, re.MULTILINE)
    assert targets
    assert all(f"\n{target}:" in makefile for target in targets)
