"""The package as it is installed: names, types, imports and examples."""

import doctest
import email
import email.message
import importlib
import importlib.metadata
import importlib.resources
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch.distributions import Bernoulli

import ancestral

ROOT = Path(__file__).parent.parent
LAYERS = ["provenance", "trace", "estimators", "tools"]
FILES = [path.relative_to(ROOT) for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
MODULES = [
    f"ancestral.{'.'.join(path.with_suffix('').parts)}".removesuffix(".__init__")
    for path in sorted(FILES)
    if path.name != "__main__.py"
]
MODULES += ["ancestral", "ancestral.errors", "ancestral.infer"]


def test_front_door_has_every_name_it_lists() -> None:
    assert all(hasattr(ancestral, name) for name in ancestral.__all__)


def test_package_is_typed_and_versioned() -> None:
    assert importlib.resources.files(ancestral).joinpath("py.typed").is_file()
    assert importlib.metadata.version("ancestral")
    newest = re.search(r"^## ([\d.]+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] == ancestral.__version__


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module: str) -> None:
    # An example is its reader's code, in whichever module it is written.
    reader = {"__name__": "__main__"}
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder().find(importlib.import_module(module), extraglobs=reader):
        # Torch takes names of compiled code away from its globals, later on: they are to be there.
        runner.run(example, clear_globs=False)
    assert runner.failures == 0


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
    printed = {"AsItIs", "UsageError", "Refusal", "Unlearned"}  # which become a text, and a warning
    assert defined - printed == set(ancestral.errors.__all__)


@pytest.mark.parametrize("name", ancestral.errors.__all__)
def test_every_error_and_warning_comes_through_a_pickle_as_pools_send_them(name: str) -> None:
    kind = getattr(ancestral.errors, name)
    error = kind("site 'z': the problem")
    error.line = 3
    sent = pickle.loads(pickle.dumps(error))
    assert type(sent) is kind
    assert (str(sent), sent.line) == ("site 'z': the problem", 3)


def test_an_error_of_another_process_says_what_it_said_there() -> None:
    with pytest.raises(ancestral.errors.SupportError) as caught:
        ancestral.sample("z", Bernoulli(0.5), obs=torch.tensor(2.0))
    sent = pickle.loads(pickle.dumps(caught.value))
    assert re.search(r"site 'z' .*test_package\.py:\d+.* outside the support", str(sent))


def test_standard_library_trace_is_not_shadowed_at_the_root() -> None:
    command = [sys.executable, "-c", "import trace; trace.CoverageResults"]
    subprocess.run(command, cwd=ROOT, check=True)


KEPT = ("docs", "examples", "tests", *LAYERS)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with an sdist of the sources, and with the wheel that is built from that."""
    folder: Path = tmp_path_factory.mktemp("built")
    tree = folder / "tree"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "out", "*.egg-info")
    shutil.copytree(ROOT, tree, ignore=ignore, symlinks=True)
    build("sdist", tree, folder)
    (source,) = folder.glob("*.tar.gz")
    shutil.unpack_archive(source, folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    build("wheel", unpacked, folder)
    return folder


def build(kind: str, tree: Path, into: Path) -> None:
    """Build an sdist or a wheel."""
    done = building(kind, tree, into)
    assert done.returncode == 0, done.stderr


def building(kind: str, tree: Path, into: Path) -> subprocess.CompletedProcess[str]:
    """Try to build."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(into)!r})"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=tree, check=False, capture_output=True, text=True)


def test_an_editable_install_without_links_says_what_it_needs(built: Path, tmp_path: Path) -> None:
    """As where git makes text files of them, and in a source distribution, which has none."""
    (unpacked,) = (built / "unpacked").iterdir()
    tree = shutil.copytree(unpacked, tmp_path / "tree")
    (tree / "ancestral" / "provenance").write_text("../provenance")
    done = building("editable", tree, tmp_path)
    assert done.returncode != 0
    assert "an editable install needs symbolic links" in done.stderr
    assert "install without -e" in done.stderr
    assert not list(tmp_path.glob("*.whl"))


def metadata(built: Path) -> email.message.Message:
    """Return what an index page says of the wheel."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def test_an_sdist_holds_all_that_make_and_the_reader_need(built: Path) -> None:
    (source,) = (built / "unpacked").iterdir()
    files = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    expected = {
        str(path.relative_to(ROOT))
        for folder in KEPT
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not re.search(r"/(__pycache__|\.\w+|_build)/", str(path))
    }
    assert {"docs/elbo.png", "docs/decisions/control.md", "examples/mixture.py"} <= expected
    assert expected <= files
    top = "CHANGELOG.md LICENSE MANIFEST.in Makefile README.md constraints.txt pyproject.toml"
    assert {*top.split(), "setup.cfg", "setup.py", "ancestral/py.typed"} <= files
    assert not [name for name in files if name.endswith((".pyc", ".orig")) or ".venv" in name]


LEFT_OUT = (("tools", "bench"), ("tools", "gallery"))  # commands of the repository
TOP = ("__init__.py", "errors.py", "handlers.py", "infer.py", "py.typed")


def test_a_wheel_from_the_sdist_holds_every_module_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {f"ancestral/{path}" for path in FILES if path.parts[:2] not in LEFT_OUT}
    assert names == {
        *modules,
        *(f"ancestral/{n}" for n in TOP),
        *(f"ancestral/tools/render/assets/page.{suffix}" for suffix in ("css", "js")),
    }


def test_the_metadata_say_who_where_and_for_what(built: Path) -> None:
    found = metadata(built)
    assert found["Version"] == ancestral.__version__
    assert found["Author"] == "The ancestral developers"
    assert found["License"] == "MIT"
    urls = dict(each.split(", ") for each in found.get_all("Project-URL", []))
    assert {"Documentation", "Source", "Changelog", "Issues"} <= urls.keys()
    (address,) = {"/".join(url.split("/")[:5]) for url in urls.values()}
    assert address.startswith("https://")
    classifiers = found.get_all("Classifier", [])
    for wanted in ("Typing :: Typed", "Intended Audience :: ", "Topic :: ", "Development Status"):
        assert any(each.startswith(wanted) for each in classifiers)
    versions = [each.rpartition(" :: ")[2] for each in classifiers if ":: Python :: 3." in each]
    assert found["Requires-Python"] == f">={versions[0]}"


def test_the_links_of_the_readme_lead_somewhere_from_an_index_page(built: Path) -> None:
    found = metadata(built)
    assert found["Description-Content-Type"] == "text/markdown"
    text = str(found.get_payload())
    written = (ROOT / "README.md").read_text()
    links, own = (re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", each) for each in (text, written))
    assert len(links) == len(own) > 5
    homes = set()
    for (is_picture, link), (_, original) in zip(links, own, strict=True):
        assert (ROOT / original).is_file()
        assert link.startswith("https://")
        assert link.endswith(f"/{original}")
        homes.add((is_picture, link.removesuffix(original)))
    assert len(homes) == 2  # of pictures, and of pages
    assert re.sub(r"\([^)]+\)", "", text).strip() == re.sub(r"\([^)]+\)", "", written).strip()
