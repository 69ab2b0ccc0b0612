"""The layout: floors of which none imports one above it, and files and folders that stay small."""

import ast
import importlib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import CodeType, FunctionType

import pytest

from ancestral.trace.audit import call_sites

ROOT = Path(__file__).parent.parent
LAYERS = ["provenance", "trace", "estimators", "tools"]
FLOORS = [
    *("provenance.algebra", "provenance.tensor", "provenance.linear", "provenance.rules"),
    "provenance.dispatch",
    *("trace.context", "trace.nodes", "trace.graph", "trace.display", "trace.audit"),
    *("trace.serialize", "trace.recording", "trace.params", "trace.enumeration"),
    *("trace.program", "trace.handlers", "trace.pyro", "trace.intercept"),
    *("estimators.credit", "estimators.baselines", "estimators.pathwise"),
    *("estimators.diagnostics", "estimators.gradient"),
    *("estimators.batched", "estimators.rerun", "estimators.relaxation", "estimators.multi_run"),
    *("estimators.finite", "estimators.verification"),
    *("estimators.elimination", "estimators.inference", "estimators.objectives"),
    *("estimators.sequences", "estimators.capture", "estimators.compiled", "estimators"),
    *("tools.render", "tools.study", "tools.demo", "tools", "tools.bench", "tools.bench.peers"),
    "tools.gallery",
]
"""The folders, from the ground up."""
MOST_FILES, MOST_LINES = 14, 400


def files() -> list[Path]:
    return [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("ancestral", *parts)).removesuffix(".__init__")


MODULES = {name_of(path): path for path in files()}


def imports(path: Path) -> Iterator[str]:
    """Yield the modules of the library that a file imports, for its annotations or when called."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from [name for name in whole if name in MODULES]
            if node.module in MODULES and not all(name in MODULES for name in whole):
                yield node.module


def floor_of(module: str) -> int:
    path = MODULES[module]
    return FLOORS.index(".".join(path.parent.relative_to(ROOT).parts))


@pytest.mark.parametrize("module", MODULES)
def test_no_import_leads_to_a_floor_above(module: str) -> None:
    above = {name for name in imports(MODULES[module]) if floor_of(name) > floor_of(module)}
    assert not above


def test_no_imports_run_in_a_circle() -> None:
    graph = {module: set(imports(path)) - {module} for module, path in MODULES.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


def test_every_folder_is_a_floor_with_few_files() -> None:
    folders = {path.parent for path in files()}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} == set(FLOORS)
    counts = {str(folder): len(list(folder.glob("*.py"))) for folder in folders}
    assert {folder: count for folder, count in counts.items() if count > MOST_FILES} == {}


def test_no_file_is_long() -> None:
    lines = {str(path): len(path.read_text().splitlines()) for path in files()}
    assert {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_every_file_says_first_what_it_holds() -> None:
    for path in files():
        text = ast.get_docstring(ast.parse(path.read_text())) or ""
        assert text.splitlines()[0].endswith("."), path


def test_every_package_is_installed_but_the_benchmarks_and_the_gallery() -> None:
    listed = (
        (ROOT / "setup.cfg").read_text().partition("packages =\n")[2].partition("package_dir")[0]
    )
    found = {name_of(path / "__init__.py") for path in {path.parent for path in files()}}
    left_out = ("ancestral.tools.bench", "ancestral.tools.gallery")
    assert set(listed.split()) == {"ancestral", *(n for n in found if not n.startswith(left_out))}


@pytest.mark.parametrize(
    "name", sorted({*call_sites.PASSING, *call_sites.RUNNING, call_sites.READING})
)
def test_the_modules_that_an_audit_looks_through_are_there(name: str) -> None:
    module = importlib.import_module(name)
    functions = call_sites.RUNNING.get(name, frozenset())
    codes = {
        code.co_name
        for found in vars(module).values()
        if isinstance(found, FunctionType)
        for code in (found.__code__, *nested(found.__code__))
    }
    assert functions <= codes


def nested(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from nested(constant)


def test_what_make_quick_leaves_out_and_what_another_torch_must_pass_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    for variable in ("SLOW", "SMOKE"):
        named = makefile.partition(f"{variable} := ")[2].partition("\n")[0].split()
        assert len(named) >= 9
        assert [name for name in named if not (ROOT / "tests" / name).exists()] == []
