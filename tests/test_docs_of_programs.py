"""The page on probabilistic programs: its blocks run, and print what the page says."""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import ancestral
from ancestral import handlers

TEXT = (Path(__file__).parent.parent / "docs" / "programs.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", TEXT, re.DOTALL)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """What the blocks print, one after the other in one namespace, as a reader runs them."""
    namespace: dict[str, Any] = {"__name__": "programs"}
    found: list[str] = []
    with contextlib.chdir(tmp_path_factory.mktemp("page")), torch.random.fork_rng():
        for code, _ in BLOCKS:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, "programs.py", "exec"), namespace)
            found.append(out.getvalue())
        yield found


@pytest.mark.parametrize("place", range(len(BLOCKS)))
def test_every_block_runs_and_prints_what_the_page_says(place: int, printed: list[str]) -> None:
    assert printed[place] == BLOCKS[place][1]


def test_every_output_on_the_page_is_that_of_a_block() -> None:
    assert TEXT.count("```text") == sum(bool(output) for _, output in BLOCKS)
    assert TEXT.count("```python") == len(BLOCKS)


def test_the_table_has_every_handler() -> None:
    listed = re.findall(r"^\| `(\w+)\(", TEXT, re.MULTILINE)
    known = [name for name in handlers.__all__ if name[0].islower()]
    assert sorted(listed) == sorted(known)
    assert set(listed) <= set(re.findall(r"\bhandlers\.(\w+)", TEXT))  # each is run on the page


def test_every_name_of_the_library_is_public() -> None:
    assert set(re.findall(r"\ban\.(\w+)", TEXT)) <= set(ancestral.__all__)
    assert set(re.findall(r"\bhandlers\.(\w+)", TEXT)) <= set(handlers.__all__)
