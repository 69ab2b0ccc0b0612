"""The command line: what it draws, and that every mistake is one line and the status 2."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import pytest
import torch

import ancestral
from ancestral.tools.cli import UsageError, load_model, main, parse_input
from ancestral.trace.serialize import file as replacement

Shown = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
MODEL = """
import torch
from torch import nn
from torch.distributions import Bernoulli


class Coins(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        heads = Bernoulli(logits=self.linear(x)).sample()
        tails = Bernoulli(logits=heads - 0.5).sample()
        return (heads * tails).sum()


class Noisy(Coins):
    def forward(self, x):
        return super().forward(torch.dropout(x, 0.5, train=True))


class Leaks(nn.Module):
    def forward(self, x):
        z = Bernoulli(logits=x).sample()
        with torch._C.DisableTorchFunctionSubclass():
            lost = z.exp()
        return lost.sum()


class Fails(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError("a model of\\nno use")


class Silent(nn.Module):
    def forward(self, x):
        return x.sum()


class Zoo:
    Coins = Coins


ready = Coins()
number = 3


def needs_an_argument(size):
    return Coins()
"""
NEVER_SEEN = "a_module_of_the_test_of_the_command_line"
ALONE = Path(ancestral.__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Stand in a folder with a model file."""
    (tmp_path / f"{NEVER_SEEN}.py").write_text(MODEL)
    (tmp_path / f"{NEVER_SEEN}_broken.py").write_text("import a_package_nobody_has\n")
    (tmp_path / "raises.py").write_text("text = 'at once'\nraise ZeroDivisionError(text)\n")
    (tmp_path / "wrong.py").write_text("def wrong(:\n")
    (tmp_path / "ends.py").write_text("import sys\nsys.exit('well done')\n")
    (tmp_path / "taken.py").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for suffix in ("", "_broken"):
        sys.modules.pop(NEVER_SEEN + suffix, None)
    return tmp_path


def target(name: str = "Coins") -> str:
    """Return the argument that names a model."""
    return f"{NEVER_SEEN}:{name}"


def graph(*arguments: str, output: str = "g.svg") -> list[str]:
    """Return the arguments that draw a graph."""
    return ["graph", *arguments, "-o", output]


INPUT = ["--input", "float32[4,3]"]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command line in its own process, as a user does."""
    command = [sys.executable, "-m", "ancestral.tools.cli", *arguments]
    paths = os.pathsep.join([str(ALONE), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_the_version_is_the_packages(capsys: Shown) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.split() == ["ancestral", version("ancestral")]
    assert version("ancestral") == ancestral.__version__


def test_without_a_command_the_usage_is_shown(capsys: Shown) -> None:
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert "usage: ancestral" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Coins", "Zoo.Coins", "ready"])
def test_a_graph_is_drawn_and_its_path_printed(folder: Path, capsys: Shown, name: str) -> None:
    assert main(graph(target(name), *INPUT)) == 0
    shown = capsys.readouterr()
    assert shown.out == "g.svg\n"
    assert shown.err == ""
    root = ElementTree.fromstring((folder / "g.svg").read_text(encoding="utf-8"))
    assert root.tag.endswith("svg")
    assert {"heads", "tails"} <= set(" ".join(root.itertext()).split())


def test_parameters_are_drawn_where_asked_for(folder: Path) -> None:
    assert main(graph(target("Coins"), *INPUT, "--params")) == 0
    text = (folder / "g.svg").read_text(encoding="utf-8")
    assert "linear" in text
    assert "no outline = parameter".replace(" ", "\xa0") in text.replace(" ", "\xa0")


def test_noise_is_drawn_where_asked_for(folder: Path) -> None:
    text = []
    for options in ([], ["--noise"]):
        assert main([*graph(target("Noisy"), *INPUT), *options]) == 0
        text.append((folder / "g.svg").read_text(encoding="utf-8").replace(" ", "\xa0"))
    assert ["diamond\xa0=\xa0noise" in each for each in text] == [False, True]


def test_a_graph_can_be_text_and_the_seed_does_not_change_it(folder: Path) -> None:
    for seed in ("0", "0", "5"):
        name = f"g{len(list(folder.glob('*.dot')))}.dot"
        assert main([*graph(target(), *INPUT, output=name), "--seed", seed]) == 0
    texts = {path.read_bytes() for path in folder.glob("*.dot")}
    assert len(texts) == 1
    assert b"heads" in texts.pop()


def test_a_model_that_draws_nothing_is_drawn_with_a_remark(folder: Path, capsys: Shown) -> None:
    assert main(graph(target("Silent"), *INPUT)) == 0
    assert capsys.readouterr().err == "ancestral: the model drew nothing\n"
    assert (folder / "g.svg").is_file()


@pytest.mark.parametrize("name", ["Coins", "Zoo.Coins", "ready", "Silent"])
def test_an_audit_says_in_one_line_what_it_compared(folder: Path, capsys: Shown, name: str) -> None:
    assert main(["audit", target(name), *INPUT]) == 0
    shown = capsys.readouterr()
    assert re.fullmatch(
        r"nothing was lost: \d+ ops compared, with \d+ sources? in all\n", shown.out
    )
    assert shown.err == ""


def test_a_finding_of_an_audit_is_one_line_with_its_place_and_the_status_1(
    folder: Path, capsys: Shown
) -> None:
    assert main(["audit", target("Leaks"), *INPUT]) == 1
    shown = capsys.readouterr()
    line = 1 + MODEL.splitlines().index("            lost = z.exp()")
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("ancestral: torch.Tensor.exp at ")
    assert f"{NEVER_SEEN}.py:{line} " in shown.err
    assert "'z'" in shown.err


MISTAKES: dict[str, tuple[list[str], str]] = {
    "no such module": (
        graph("a_module_nobody_has:Net"),
        "no module named 'a_module_nobody_has' can be imported",
    ),
    "no colon": (graph(NEVER_SEEN), "expected module:factory"),
    "no such name": (graph(target("Nobody")), "has no 'Nobody'"),
    "no such part of a name": (graph(target("Zoo.Lion")), "has no 'Zoo.Lion'"),
    "nothing to call": (graph(target("number")), "made a int, which cannot be called"),
    "a factory with arguments": (graph(target("needs_an_argument")), "TypeError: "),
    "a module that misses another": (
        graph(f"{NEVER_SEEN}_broken:Net"),
        "ModuleNotFoundError: No module named 'a_package_nobody_has'",
    ),
    "no input text": (graph(target(), "--input", "four by three"), "expected dtype[sizes]"),
    "no such dtype": (graph(target(), "--input", "float31[4,3]"), "'float31[4,3]'"),
    "a wrong shape": (graph(target(), "--input", "float32[4,7]"), "RuntimeError: "),
    "too few inputs": (graph(target()), "TypeError: "),
    "an audit of no such module": (["audit", "a_module_nobody_has:Net"], "can be imported"),
    "an audit of a model that raises": (
        ["audit", target("Fails"), *INPUT],
        "ZeroDivisionError: a model of no use",
    ),
    "no such suffix": (graph(target(), *INPUT, output="g.txt"), ".txt"),
    "no suffix": (graph(target(), *INPUT, output="g"), ""),
    "no such folder": (graph(target(), *INPUT, output="nowhere/at/all/g.svg"), "nowhere"),
    "a file for a folder": (graph(target(), *INPUT, output="g.svg/g.svg"), "g.svg"),
    "a folder": (graph(target(), *INPUT, output="taken.svg"), "taken.svg"),
    "no such file": (graph("nowhere/models.py:Net"), "'nowhere/models.py' is no file"),
    "a folder for a file": (graph("taken.py:Net"), "'taken.py' is no file"),
    "no factory in a file": (graph(f"{NEVER_SEEN}.py:"), "path/file.py:factory"),
    "no such name in a file": (
        graph(f"./{NEVER_SEEN}.py:Nobody"),
        f"'./{NEVER_SEEN}.py' has no 'Nobody'",
    ),
    "nothing to call in a file": (graph(f"{NEVER_SEEN}.py:number"), "made a int, which cannot"),
    "a file that raises": (graph("raises.py:Net"), "raises.py:2)"),
    "a file that is no Python": (graph("wrong.py:Net"), "SyntaxError: "),
    "a file that ends the process": (graph("ends.py:Net"), "'ends.py' ends the process"),
    "a module that ends the process": (graph("ends:Net"), "'ends' ends the process"),
    "a file that misses a module": (
        graph(f"{NEVER_SEEN}_broken.py:Net"),
        "ModuleNotFoundError: No module named 'a_package_nobody_has'",
    ),
    "a path without its suffix": (graph("models/net:Net"), "path/file.py:factory"),
    "a relative module": (graph(".models:Net"), "path/file.py:factory"),
    "an audit of no such file": (["audit", "models.py:Net"], "'models.py' is no file"),
    "a demo into a file": (["demo", "--out", "g.svg"], "g.svg"),
    "a demo below a file": (["demo", "--out", "g.svg/out"], "g.svg/out"),
    "a demo where nothing can be written": (["demo", "--out", "/proc/out"], "/proc/out"),
    "a model that raises": (graph(target("Fails"), *INPUT), "ZeroDivisionError: a model of no use"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_an_existing_file(
    folder: Path, capsys: Shown, name: str
) -> None:
    (folder / "taken.svg").mkdir()
    old = [folder / "g.svg", folder / "g.txt", folder / "g"]
    for path in old:
        path.write_bytes(b"what was here")
    before = sorted(folder.rglob("*"))
    arguments, words = MISTAKES[name]
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("ancestral: error: ")
    assert words in shown.err
    assert all(path.read_bytes() == b"what was here" for path in old)
    left = [p for p in sorted(folder.rglob("*")) if "__pycache__" not in p.parts]
    assert left == before


def test_an_error_of_the_model_names_its_line(folder: Path, capsys: Shown) -> None:
    main(graph(target("Fails"), *INPUT))
    line = 1 + MODEL.splitlines().index('        raise ZeroDivisionError("a model of\\nno use")')
    assert f"{NEVER_SEEN}.py:{line})" in capsys.readouterr().err


UNWRITABLE = [folder for folder in ("/proc", "/sys") if Path(folder).is_dir()]


@pytest.mark.parametrize("place", UNWRITABLE)
def test_a_place_where_nothing_can_be_written_is_named(
    folder: Path, capsys: Shown, place: str
) -> None:
    (folder / "link").symlink_to(place)
    for name in (f"{place}/g.svg", f"{place}/sub/g.svg", "link/g.svg", f"{place}/g.dot"):
        assert main(graph(target(), *INPUT, output=name)) == 2
        said = capsys.readouterr().err
        assert said.startswith("ancestral: error: ")
        assert f"cannot write {name}: " in said
        assert ".tmp" not in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["g.svg", "new.svg", "new.png", "new.dot"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
def test_whatever_stops_the_writing_names_the_place(
    folder: Path, capsys: Shown, monkeypatch: Patch, name: str, number: int
) -> None:
    (folder / "g.svg").write_bytes(b"what was here")
    before = sorted(folder.rglob("*"))
    is_full = number in (errno.ENOSPC, errno.EDQUOT)
    really = Path.open

    def refuse(self: Path, mode: str = "r", **options: Any) -> Any:
        if mode != "xb":
            return really(self, mode, **options)
        if not is_full:
            raise OSError(number, os.strerror(number), str(self))
        file = really(self, mode, **options)
        monkeypatch.setattr(replacement, "shutil", None)  # it does not come so far
        return Full(file)

    class Full:
        """A file for which there is no room."""

        def __init__(self, file: IO[Any]) -> None:
            self.file = file

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, _: bytes) -> None:
            raise OSError(number, os.strerror(number))

    with monkeypatch.context() as inner:  # no permission stops a superuser
        inner.setattr(Path, "open", refuse)
        status = main(graph(target(), *INPUT, output=name))
    assert status == 2
    assert f"cannot write {name}: {os.strerror(number)}\n" in capsys.readouterr().err
    assert (folder / "g.svg").read_bytes() == b"what was here"
    assert [p for p in sorted(folder.rglob("*")) if "__pycache__" not in p.parts] == before


@pytest.mark.parametrize("name", ["matplotlib", "sklearn", "tqdm"])
def test_a_demo_without_its_extra_says_which_extra(
    folder: Path, capsys: Shown, monkeypatch: Patch, name: str
) -> None:
    for module in [m for m in sys.modules if m.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    for module in ("demo", "digits"):
        monkeypatch.delitem(sys.modules, f"ancestral.tools.demo.{module}", raising=False)
    assert main(["demo", "--steps", "1"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == (
        f"ancestral: error: the demo needs {name}, which is not installed: "
        "pip install 'ancestral[demo]'\n"
    )
    assert not (folder / "out").exists()


def test_a_demo_that_misses_something_else_says_that(
    folder: Path, capsys: Shown, monkeypatch: Patch
) -> None:
    monkeypatch.setitem(sys.modules, "ancestral.tools.demo.belief_net", None)
    monkeypatch.delitem(sys.modules, "ancestral.tools.demo.demo", raising=False)
    assert main(["demo", "--steps", "1"]) == 2
    assert "ancestral.tools.demo.belief_net" in capsys.readouterr().err


FILES = ["models.py", "./models.py", "a b/models.py", "a:b/models.py", "random.py", "torch.py"]


@pytest.mark.parametrize("name", FILES)
def test_a_model_is_named_by_its_file(folder: Path, capsys: Shown, name: str) -> None:
    before = {each: sys.modules.get(each) for each in ("random", "torch", "models")}
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    beside = f"beside_{FILES.index(name)}"
    (path.parent / f"{beside}.py").write_text(f"path = {str(path)!r}\n")
    path.write_text(
        f"from __future__ import annotations\nfrom dataclasses import dataclass\n"
        f"from {beside} import path\n{MODEL}\n@dataclass\nclass Sizes:\n    size: int = 3\n"
        f"\nassert path == {str(path)!r}\n"
    )
    for given in (name, str(path)):
        for factory in ("Coins", "Zoo.Coins", "ready"):
            assert main(graph(f"{given}:{factory}", *INPUT)) == 0
            assert main(["audit", f"{given}:{factory}", *INPUT]) == 0
        assert main(["audit", f"{given}:Leaks", *INPUT]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("g.svg\n") == shown.out.count("nothing was lost") == 6
    line = 1 + path.read_text().splitlines().index("            lost = z.exp()")
    assert shown.err.count(f"{path.name}:{line} ") == 2
    assert {each: sys.modules.get(each) for each in before} == before


def test_a_file_is_read_anew_each_time(folder: Path) -> None:
    path = folder / "changing.py"
    for size in (3, 4):
        path.write_text(f"def make():\n    return lambda: {size}\n" + "#" * size)
        model: Callable[[], int] = load_model(f"{path}:make")
        assert model() == size


def test_the_command_line_runs_as_a_process(folder: Path) -> None:
    done = run(*graph(target(), *INPUT))
    assert (done.returncode, done.stdout, done.stderr) == (0, "g.svg\n", "")
    old = (folder / "g.svg").read_bytes()
    failed = run(*graph(target("Fails"), *INPUT))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.count("\n") == 1
    assert "Traceback" not in failed.stderr
    assert (folder / "g.svg").read_bytes() == old


@pytest.mark.parametrize(
    ("text", "dtype", "shape"),
    [
        ("float32[32,64]", torch.float32, (32, 64)),
        (" float64 [ 2 , 3 ] ", torch.float64, (2, 3)),
        ("bfloat16[5]", torch.bfloat16, (5,)),
        ("float32[]", torch.float32, ()),
        ("int64[8]", torch.int64, (8,)),
        ("bool[2,2]", torch.bool, (2, 2)),
        ("complex64[2]", torch.complex64, (2,)),
        ("float32[0,3]", torch.float32, (0, 3)),
    ],
)
def test_an_input_is_made_as_described(
    text: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    made = parse_input(text)
    assert (made.dtype, tuple(made.shape)) == (dtype, shape)
    if not (dtype.is_floating_point or dtype.is_complex):
        assert not made.any()


def test_inputs_of_reals_are_not_all_the_same() -> None:
    assert parse_input("float32[50]").unique().numel() > 10


@pytest.mark.parametrize(
    "text", ["", "float32", "[3]", "float32[3", "float32[-1]", "tensor[3]", "float32[a]", "nn[2]"]
)
def test_an_input_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected dtype\[sizes\], for example"):
        parse_input(text)


def test_a_module_is_used_as_it_is_and_a_factory_is_called(folder: Path) -> None:
    ready: Callable[..., object] = load_model(target("ready"))
    assert load_model(target("ready")) is ready
    assert load_model(target()) is not load_model(target())
