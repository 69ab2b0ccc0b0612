"""The package as it is installed: names, types, imports and examples."""

import ast
import doctest
import importlib
import importlib.metadata
import importlib.resources
import subprocess
import sys
from pathlib import Path

import pytest

import ancestral

ROOT = Path(__file__).parent.parent
LAYERS = ["provenance", "trace", "estimators", "tools"]
MODULES = [
    f"ancestral.{layer}.{path.stem}"
    for layer in LAYERS
    for path in sorted((ROOT / layer).glob("*.py"))
]
MODULES += ["ancestral", "ancestral.errors"]


def imports(source: str) -> set[str]:
    """Return the absolute modules that ``source`` imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_front_door_has_every_name_it_lists() -> None:
    assert all(hasattr(ancestral, name) for name in ancestral.__all__)


def test_package_is_typed_and_versioned() -> None:
    assert importlib.resources.files(ancestral).joinpath("py.typed").is_file()
    assert importlib.metadata.version("ancestral")


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_front_door_opens_with_an_example() -> None:
    assert doctest.testmod(ancestral).attempted >= 3


def test_every_error_and_warning_of_the_library_is_in_errors() -> None:
    defined = {
        name
        for module in map(importlib.import_module, MODULES)
        for name, found in vars(module).items()
        if isinstance(found, type) and issubclass(found, Exception)
        if found.__module__ == module.__name__
    }
    assert defined - {"UsageError"} == set(ancestral.errors.__all__)  # which the CLI prints as text


@pytest.mark.parametrize("layer", LAYERS)
def test_layers_depend_only_on_the_layers_below(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    for path in (ROOT / layer).glob("*.py"):
        for module in imports(path.read_text()):
            owner = module.removeprefix("ancestral.").partition(".")[0]
            assert owner not in above, f"{path} imports {module}"


def test_standard_library_trace_is_not_shadowed_at_the_root() -> None:
    command = [sys.executable, "-c", "import trace; trace.CoverageResults"]
    subprocess.run(command, cwd=ROOT, check=True)
