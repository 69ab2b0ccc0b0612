"""The command: what it leaves, that it goes on after being killed, and what it says of mistakes."""

import csv
import importlib.util
import os
import random
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import ancestral
from ancestral.tools.cli import main
from ancestral.tools.study import study as module
from ancestral.tools.study.store import FILE
from ancestral.tools.study.table import COLUMNS, TIMED

Shown = pytest.CaptureFixture[str]
MODEL = """
import itertools

import torch
from torch import nn
from torch.distributions import Bernoulli, Categorical


class Coins(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 2), nn.Linear(2, 1)

    def forward(self, x):
        heads = Bernoulli(logits=self.first(x)).sample()
        tails = Bernoulli(logits=self.second(heads)).sample()
        return ((heads.sum(-1) - 0.45) ** 2 + heads[:, 0] * tails[:, 0]).mean()


class Counting(Coins):
    calls = itertools.count()

    def forward(self, x):
        return super().forward(x) + next(self.calls)


class Classes(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))

    def forward(self):
        return (Categorical(logits=self.logits).sample() - 1.3) ** 2
"""
SMALL = ["--draws", "20", "--steps", "5", "--warm-up", "5"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a folder with a model file."""
    (tmp_path / "coins.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(name: str, out: str, *more: str, estimators: str = "auto,optimal,disarm") -> list[str]:
    """Return the arguments of a study."""
    inputs = [] if name == "Classes" else ["--input", "float32[4,3]"]
    chosen = ["--estimators", estimators]
    return ["study", f"coins.py:{name}", *inputs, *chosen, *SMALL, "--out", out, *more]


def table(out: Path) -> list[dict[str, str]]:
    """Return the table of a folder without what is measured in seconds."""
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(COLUMNS)
    return [{k: v for k, v in row.items() if k not in TIMED} for row in rows]


def test_it_leaves_tables_plots_a_page_and_what_to_run_it_again_with(
    folder: Path, capsys: Shown
) -> None:
    assert main(asked("Coins", "out")) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert "reference: 20 other draws of the default of an.backward" in shown.out
    out = folder / "out"
    rows = table(out)
    assert {row["estimator"] for row in rows} == {"auto", "optimal", "disarm"}
    assert {row["group"] for row in rows} == {"first", "second", "total"}
    for name in ("variance", "cost", "training"):
        assert (out / f"{name}.svg").read_text().startswith("<?xml")
    page = (out / "report.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert not re.search(r"(src|href)=\"(?!data:)", page)  # no other file, no network
    for row in rows:
        assert f'<td class="">{row["estimator"]}</td><td class="">{row["group"]}</td>' in page
    kept = tomllib.loads((out / "study.toml").read_text())
    assert kept["study"]["model"] == "coins.py:Coins"
    assert kept["study"]["draws"] == 20
    assert kept["versions"]["ancestral"] == ancestral.__version__
    has_pyarrow = importlib.util.find_spec("pyarrow") is not None
    assert sorted(path.name for path in out.iterdir()) == [
        *("cost.svg", "report.html", "results.sqlite", "sites.csv", "study.toml", "table.csv"),
        *(["table.parquet"] if has_pyarrow else []),
        *("training.csv", "training.svg", "variance.svg"),
    ]
    assert main(["study", "out/study.toml", "--out", "again"]) == 0
    assert table(folder / "again") == rows


def test_a_study_that_is_there_is_shown_without_being_made_again(
    folder: Path, capsys: Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(asked("Coins", "out", estimators="auto")) == 0
    before = (folder / "out" / "table.csv").read_bytes()
    monkeypatch.setattr(module, "finished", None)  # what would do the work
    assert main(asked("Coins", "out", estimators="auto")) == 0
    assert (folder / "out" / "table.csv").read_bytes() == before


def test_an_estimator_can_be_added_to_a_study(folder: Path) -> None:
    assert main(asked("Coins", "out", estimators="auto")) == 0
    assert main(asked("Coins", "out", estimators="auto,disarm")) == 0
    assert {row["estimator"] for row in table(folder / "out")} == {"auto", "disarm"}


def test_killed_at_any_moment_it_goes_on_and_gives_the_same_table(folder: Path) -> None:
    """With two workers, and alone, killed with -9, beside one process that nobody disturbed."""
    assert main(asked("Coins", "whole")) == 0
    command = [
        sys.executable,
        "-m",
        "ancestral.tools.cli",
        *asked("Coins", "cut", "--workers"),
    ]
    paths = os.pathsep.join([str(Path(ancestral.__file__).parent.parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths}
    moments = random.Random(0)
    log, sizes = folder / "cut" / f"{FILE}-wal", []
    for workers in "21":
        asking = [*command, workers]
        with subprocess.Popen(asking, env=environment, stdout=subprocess.DEVNULL) as process:
            begun = log.stat().st_size if log.exists() else 0
            while process.poll() is None and not (log.exists() and log.stat().st_size > begun):
                time.sleep(0.05)
            time.sleep(moments.uniform(0, 1))  # later, it might have ended
            process.send_signal(signal.SIGKILL)
        sizes.append((folder / "cut" / FILE).stat().st_size)
    assert not (folder / "cut" / "table.csv").exists() or max(sizes) > 0
    done = subprocess.run(
        [*command, "1"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert table(folder / "cut") == table(folder / "whole")
    assert not (folder / "cut" / ".program.pickle").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            asked("Coins", "out", estimators="auto,dissarm"),
            r"estimators: 'dissarm' is unknown \(did you mean 'disarm'\?\); there are auto, ",
        ),
        (asked("Coins", "out", estimators="arms(1)"), r"estimators: 'arms\(1\)': ARMS: samples"),
        (asked("Coins", "out", estimators="arms(x)"), r"estimators: 'arms\(x\)': "),
        (asked("Coins", "out", estimators="auto,Auto"), "'auto' is named twice"),
        (asked("Coins", "out", estimators=","), "estimators: none is named"),
        (
            asked("Classes", "out", estimators="disarm"),
            r"'disarm' does not fit the program: site 'categorical' \(.*s.py:33\): DisARM treats",
        ),
        (asked("Coins", "out", "--draws", "3"), "draws must be an int greater than 3, not 3"),
        (asked("Coins", "out", "--workers", "0"), "workers must be an int greater than 0"),
        (asked("Coins", "out", "--rate", "-1"), "rate must be a number greater than 0"),
        (asked("Coins", "out", "--backend", "mpi"), "backend must be 'processes', 'dask' or 'ray'"),
        (
            asked("Counting", "out"),
            r"not a function of its arguments and its draws: .* keep out of it what changes",
        ),
        (["study", "coins.py:Nothing", "--out", "out"], "has no 'Nothing'"),
        (["study", "none.toml", "--out", "out"], "none.toml"),
        (["study", "bad.toml", "--out", "out"], "'bad.toml' is no study.toml of this command"),
        (asked("Coins", "coins.py"), "coins.py"),
    ],
    ids=lambda item: None if isinstance(item, list) else item[:24],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    folder: Path, capsys: Shown, arguments: list[str], said: str
) -> None:
    (folder / "bad.toml").write_text("[study]\nseed = 0\n")
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("ancestral: error: ")
    assert re.search(said, shown.err), shown.err
    assert not (folder / "out" / "results.sqlite").exists()


def test_a_folder_of_another_study_is_refused_and_left(folder: Path, capsys: Shown) -> None:
    assert main(asked("Coins", "out", estimators="auto")) == 0
    before = {path.name: path.read_bytes() for path in (folder / "out").iterdir()}
    assert main(asked("Coins", "out", "--seed", "1", estimators="auto")) == 2
    # By the seed, the command makes the model and its inputs too.
    assert re.search(
        "holds another study: .*; seed is 0 there, and 1 here; choose", capsys.readouterr().err
    )
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == before
