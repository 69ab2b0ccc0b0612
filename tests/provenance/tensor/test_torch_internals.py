"""What the library uses of torch besides its public interface, and the versions that have it."""

import ast
import configparser
import re
import runpy
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ancestral.errors import TorchVersionWarning
from ancestral.provenance.tensor import torch_internals

ROOT = Path(__file__).parents[3]
HERE = ROOT / "provenance" / "tensor" / "torch_internals.py"
SOURCES = [
    *(ROOT / "ancestral").glob("*.py"),
    *(
        path
        for layer in ("provenance", "trace", "estimators", "tools")
        for path in (ROOT / layer).rglob("*.py")
    ),
]
FIRST, LAST = torch_internals.FIRST, torch_internals.LAST
BEYOND = f"{LAST[0]}.{LAST[1] + 1}"
INSIDE = f"{FIRST[0]}.{FIRST[1]}.0 {FIRST[0]}.{FIRST[1]}.0+cpu {LAST[0]}.{LAST[1]}.3"
OUTSIDE = f"2.4.1 2.9.1+cu130 {BEYOND}.0 {BEYOND}.0a0+git1234567 2.100.0 3.0.0 1.13.1 nightly"


def again() -> dict[str, Any]:
    """Run the module once more, as an import does."""
    return runpy.run_path(str(HERE))


@pytest.mark.parametrize("version", INSIDE.split())
def test_a_version_that_was_tried_is_met_in_silence(
    version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again()


@pytest.mark.parametrize("version", OUTSIDE.split())
def test_another_version_is_told_in_one_line(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.warns(UserWarning, match="ancestral was tried with torch") as told:
        again()
    (text,) = [str(each.message) for each in told]
    assert type(told[0].message).__name__ == TorchVersionWarning.__name__
    assert f"this is torch {version}," in text
    assert text.count("\n") == 0


def test_the_declared_range_and_the_table_of_the_readme_are_the_versions_tried() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    first, last = (".".join(map(str, version)) for version in (FIRST, LAST))
    assert f"torch>={first},<{BEYOND}" in setup["options"]["install_requires"].split("\n")
    table = re.findall(r"^\| (\d+\.\d+)\.\d+ \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert table == [f"{FIRST[0]}.{minor}" for minor in range(FIRST[1], LAST[1] + 1)]
    assert (table[0], table[-1]) == (first, last)


def imported() -> Iterator[tuple[Any, str]]:
    """Yield what the module imports from torch, with its owner, and what it has recordings replace.

    A module within a package is left out: it cannot be taken away.
    """
    (trying,) = (each for each in ast.parse(HERE.read_text()).body if isinstance(each, ast.Try))
    for node in trying.body:
        if isinstance(node, ast.ImportFrom):
            owner = sys.modules[node.module or ""]
            for alias in node.names:
                if not isinstance(getattr(owner, alias.name), ModuleType):
                    yield owner, alias.name
    for found in vars(torch_internals).values():
        yield from _doors(found)


def _doors(found: Any) -> Iterator[tuple[Any, str]]:
    if isinstance(found, dict) and all(isinstance(name, str) for name in found):
        found = tuple(found.values())
    if isinstance(found, tuple) and [isinstance(part, str) for part in found] == [False, True]:
        yield found
    elif isinstance(found, tuple):
        for each in found:
            yield from _doors(each)


NAMES = {f"{getattr(owner, '__name__', owner)}.{name}": (owner, name) for owner, name in imported()}


def test_there_are_such_names() -> None:
    assert len(NAMES) > 40
    assert "torch._functorch.apis.vmap_impl" in NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_import_names_what_a_version_lacks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute = NAMES[name]
    monkeypatch.delattr(owner, attribute)
    with pytest.raises(ImportError) as told:
        again()
    assert "lacks a private name" in str(told.value)
    assert re.search(rf"\b{attribute}\b", str(told.value))
    assert f"cannot run with torch {torch.__version__}," in str(told.value)
    assert str(told.value).count("\n") == 0


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _private(tree: ast.Module) -> Iterator[str]:
    """Yield the private names of torch that a source spells out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            for alias in node.names:
                if any(map(_is_private, f"{node.module}.{alias.name}".split("."))):
                    yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("torch") and any(map(_is_private, alias.name.split("."))):
                    yield alias.name
        elif isinstance(node, ast.Attribute) and _is_private(node.attr):
            spelled = ast.unparse(node)
            if spelled.startswith("torch.") and not spelled.startswith("torch.ops."):
                yield spelled


@pytest.mark.parametrize(
    "text",
    [
        *("import torch._C", "from torch._C import x", "from torch.utils import _pytree"),
        *("from torch.utils._pytree import tree_leaves", "import torch\ntorch._C.f()"),
        *("import torch\ntorch.cuda._f()", "import torch\nwith torch._C.f(torch._C.g(1)): pass"),
    ],
)
def test_a_private_name_is_found(text: str) -> None:
    assert list(_private(ast.parse(text)))


def _own(trees: dict[Path, ast.Module]) -> set[str]:
    """Return the private names that the library defines."""
    found: set[str] = set()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            elif isinstance(node, ast.alias) and node.asname:
                found.add(node.asname)
    return found


_OF_PYTHON = {"_replace", "_make", "_fields", "_getframe", "_is_internal_frame", "_Hash"}


def test_private_names_of_torch_stand_in_one_place() -> None:
    trees = {path: ast.parse(path.read_text()) for path in SOURCES if path != HERE}
    spelled = {f"{path}: {name}" for path, tree in trees.items() for name in _private(tree)}
    assert not spelled
    declared = {name for _, names in vars(torch_internals)["_read"] for name in names.split()}
    known = declared | _own(trees) | _OF_PYTHON
    read = {
        f"{path}: {node.attr}"
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in known
    }
    assert not read
