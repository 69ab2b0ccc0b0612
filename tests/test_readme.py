"""The README: its code runs, its commands and pictures exist, and what it guarantees is tested."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_there_is_code_within_ten_lines() -> None:
    lines = [line for line in BLOCKS[0].splitlines() if line.strip()]
    assert 1 <= len(lines) <= 10


def test_code_runs_as_it_stands(tmp_path: Path) -> None:
    # The tests say what works in another version of torch.
    options = ["-W", "error", "-W", "ignore:ancestral was tried with torch"]
    each = "import sys\nfor code in sys.argv[1:]: exec(code, {'__name__': '__main__'})"
    command = [sys.executable, *options, "-c", each, *BLOCKS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = ["Bernoulli", "tensor([False,  True,  True, False,  True])"]  # by each block
    assert [text for text in printed if text not in done.stdout] == []
    assert len(BLOCKS) == len(printed)
    assert [path.name for path in tmp_path.iterdir()] == ["graph.svg"]
    assert (tmp_path / "graph.svg").read_text().startswith("<")


def test_every_target_of_make_is_one() -> None:
    targets = set(re.findall(r"make\s+([a-z][a-z-]*)(?=[` \n]|$)", TEXT, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test", "test-torch", "bench"} <= targets
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)
    assert len(pictures) == 2
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_every_name_of_the_library_is_public() -> None:
    import ancestral

    names = set(re.findall(r"\ban\.(\w+)", TEXT))
    assert names <= set(ancestral.__all__)


def test_every_example_that_is_named_is_there() -> None:
    named = set(re.findall(r"python\s+(examples/\w+\.py)", TEXT))
    assert named == {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}


def sentences() -> list[str]:
    """Return the items of what is guaranteed, each on one line."""
    section = (ROOT / "docs" / "guarantees.md").read_text()
    items = re.findall(r"^- (.*?)(?=\n\n|\n- |\Z)", section, re.DOTALL | re.MULTILINE)
    return [" ".join(item.split()) for item in items]


def test_every_sentence_that_is_guaranteed_has_a_test_of_its_own() -> None:
    claims = [
        " ".join((ast.get_docstring(node) or "").split())
        for path in (ROOT / "tests" / "guarantees").glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert len(sentences()) >= 20
    assert sorted(sentences()) == sorted(claims)
