"""The store: each result is whole or not there, and each mistake names the file and the way out."""

import errno
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ancestral.errors import StudyError
from ancestral.tools.study import report
from ancestral.tools.study.store import FILE, Store
from ancestral.tools.study.work import Result, Task

SETTINGS: dict[str, Any] = {"seed": 0, "draws": 8, "parameters and arguments": "aa"}
TASK = Task("draws", "auto", 0, 3)


def result(size: int = 2) -> Result:
    return Result(4, np.array([1.0, 2.0, 0.1]), np.zeros(3), np.arange(size) / 3, np.ones(1))


def test_a_result_comes_back_bit_by_bit(tmp_path: Path) -> None:
    store = Store(tmp_path, SETTINGS)
    store.keep(TASK, result())
    store.close()
    again = Store(tmp_path, SETTINGS)
    assert again.kept() == {TASK}
    ((task, found),) = again.results("draws", "auto")
    assert task == TASK
    assert found.evaluations == 4
    for ours, theirs in zip(vars(found).values(), vars(result()).values(), strict=True):
        assert np.array_equal(ours, theirs)
    again.close()


def test_a_result_that_is_there_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, SETTINGS)
    store.keep(TASK, result())
    store.keep(TASK, result(5))
    ((_, found),) = store.results("draws", "auto")
    assert len(found.mean) == 2
    store.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"draws": 9}, "draws is 8 there, and 9 here"),
        ({"parameters and arguments": "bb"}, "its parameters and arguments differ in value"),
        ({"shapes": {"w": "float32[2]"}}, "shapes is None there"),
    ],
)
def test_a_folder_of_another_study_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    store = Store(tmp_path, SETTINGS)
    store.keep(TASK, result())
    store.close()
    with pytest.raises(StudyError, match="holds another study") as caught:
        Store(tmp_path, {**SETTINGS, **change})
    assert said in str(caught.value)
    assert str(tmp_path / FILE) in str(caught.value)
    assert "choose another folder" in str(caught.value)
    kept = Store(tmp_path, SETTINGS)
    assert kept.kept() == {TASK}
    kept.close()


def test_a_name_of_another_method_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, SETTINGS)
    store.claim({"mine": "ARMS(samples=3)", "auto": "auto"})
    store.claim({"mine": "ARMS(samples=3)", "more": "RLOO(samples=2)"})
    with pytest.raises(StudyError, match=r"its method 'mine' is ARMS\(samples=3\), and this one's"):
        store.claim({"mine": "ARMS(samples=4)"})
    store.close()


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, SETTINGS)
    store.keep(TASK, result())
    (pages,) = store._base.execute("pragma page_count").fetchone()
    store._base.execute(f"pragma max_page_count = {pages + 2}")
    with pytest.raises(StudyError, match="the disk is full; all results until then are kept: make"):
        store.keep(Task("draws", "auto", 1, 3), result(100_000))
    store.close()
    again = Store(tmp_path, SETTINGS)
    assert again.kept() == {TASK}
    again.keep(Task("draws", "auto", 1, 3), result(100_000))
    assert len(again.kept()) == 2
    again.close()


def test_a_full_disk_is_said_of_the_report_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, f"cannot write {path}: no space left")

    monkeypatch.setattr(report, "replacing", full)
    with pytest.raises(StudyError, match=r"table\.csv: .* disk is full; .* start the same"):
        report.write(tmp_path / "table.csv", "")


@pytest.mark.parametrize("content", [b"no database at all, but a long text" * 40, b"SQLite"])
def test_a_file_that_is_none_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(StudyError, match="it is no file of a study, or was damaged; choose"):
        Store(tmp_path, SETTINGS)
    assert (tmp_path / FILE).read_bytes() == content


def test_another_programs_database_is_refused_and_left(tmp_path: Path) -> None:
    base = sqlite3.connect(tmp_path / FILE)
    base.execute("create table kept (x)")
    base.commit()
    base.close()
    with pytest.raises(StudyError, match="was not written by this version of ancestral"):
        Store(tmp_path, SETTINGS)
    base = sqlite3.connect(tmp_path / FILE)
    assert base.execute("select count(*) from kept").fetchone() == (0,)
    base.close()


def test_two_at_work_on_one_study_are_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, SETTINGS)
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from ancestral.tools.study.store import Store\n"
        f"Store(Path({str(tmp_path)!r}), {SETTINGS!r})"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "another process is at work on this study; wait until it has ended" in other.stderr
    store.keep(TASK, result())
    store.close()
    Store(tmp_path, SETTINGS).close()
