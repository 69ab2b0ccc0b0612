"""The pages of docs/: their blocks run, and print what the page says."""

import contextlib
import functools
import io
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import ancestral
from ancestral import errors, estimators, handlers, infer

DOCS = Path(__file__).parent.parent / "docs"
TEXTS = {
    str(path.relative_to(DOCS).with_suffix("")): path.read_text()
    for path in sorted(DOCS.rglob("*.md"))
    if "_build" not in path.parts and "```python" in path.read_text()
}
PAGES = (*TEXTS,)
BLOCKS = {
    page: re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", text, re.DOTALL)
    for page, text in TEXTS.items()
}


@functools.cache
def printed(page: str, folder: Path) -> list[str]:
    """Return what the blocks print, one after the other in one namespace, as a reader runs them."""
    name = Path(page).name
    namespace: dict[str, Any] = {"__name__": name}
    found: list[str] = []
    with contextlib.chdir(folder), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for code, _ in BLOCKS[page]:
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, f"{name}.py", "exec"), namespace)
            found.append(out.getvalue())
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.mark.parametrize(
    ("page", "place"), [(page, n) for page, blocks in BLOCKS.items() for n in range(len(blocks))]
)
def test_every_block_runs_and_prints_what_the_page_says(
    page: str, place: int, folder: Path
) -> None:
    assert printed(page, folder)[place] == BLOCKS[page][place][1]


@pytest.mark.parametrize("page", PAGES)
def test_every_output_on_a_page_is_that_of_a_block(page: str) -> None:
    blocks = BLOCKS[page]
    assert TEXTS[page].count("```text") == sum(bool(output) for _, output in blocks)
    assert TEXTS[page].count("```python") == len(blocks) > 0


@pytest.mark.parametrize("page", PAGES)
def test_every_name_of_the_library_is_public(page: str) -> None:
    for name, module in (
        ("an", ancestral),
        ("handlers", handlers),
        (r"an\.infer", infer),
        (r"an\.estimators", estimators),
        (r"an\.errors", errors),
    ):
        names = re.findall(rf"(?<![\w.]){name}\.(\w+)", TEXTS[page])
        assert set(names) <= {*module.__all__, "handlers"}


def test_a_page_draws_its_picture(folder: Path) -> None:
    assert printed("plates", folder)
    assert (folder / "plates.svg").read_text().startswith("<")


def test_the_table_of_handlers_has_every_one() -> None:
    listed = re.findall(r"^\| `(\w+)\(", TEXTS["programs"], re.MULTILINE)
    known = [name for name in handlers.__all__ if name[0].islower()]
    assert sorted(listed) == sorted(known)
    # Each is run on the page.
    assert set(listed) <= set(re.findall(r"\bhandlers\.(\w+)", TEXTS["programs"]))
