"""Store: the results of a study in one SQLite file, each whole or not there at all.

A result is a row that is written in one transaction, by one process. Whatever ends that, the file
has the results that were there before, and the next one goes on from them. The file is locked
while a study is at work.
"""

import json
import sqlite3
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ancestral.tools.study.errors import DISK_IS_FULL, StudyError
from ancestral.tools.study.work import Numbers, Result, Task

FILE, VERSION = "results.sqlite", 2
_APPLICATION = 0x616E7374
_SCHEMA = """
create table settings (name text primary key, value text not null) without rowid;
create table methods (name text primary key, plan text not null) without rowid;
create table sites (variances text not null);
create table results (
    kind text not null, method text not null, block integer not null, count integer not null,
    evaluations integer not null, seconds blob not null, losses blob not null, mean blob not null,
    squares blob not null, primary key (kind, method, block)
);
"""


class Store:
    """The results of a study in a folder.

    Args:
        folder: where it lies; it is made.
        settings: what the results depend on. A file that is there already must have the same.

    Raises:
        StudyError: if the folder holds another study, or one at work, or the disk is full.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        with self._explained():
            self._base = sqlite3.connect(self.path, timeout=0.2, isolation_level=None)
            try:
                self._begin(settings)
            except BaseException:
                self._base.close()
                raise

    def _begin(self, settings: Mapping[str, Any]) -> None:
        self._base.execute("pragma locking_mode = exclusive")
        self._base.execute("pragma journal_mode = wal")  # a commit waits for no disk
        self._base.execute("pragma synchronous = normal")
        with self._written():
            (application,) = self._base.execute("pragma application_id").fetchone()
            (tables,) = self._base.execute("select count(*) from sqlite_master").fetchone()
            if not tables:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._base.execute(statement)
                self._base.execute(f"pragma application_id = {_APPLICATION}")
                self._base.execute(f"pragma user_version = {VERSION}")
                rows = [(name, json.dumps(value)) for name, value in settings.items()]
                self._base.executemany("insert into settings values (?, ?)", rows)
                return
            (version,) = self._base.execute("pragma user_version").fetchone()
            if (application, version) != (_APPLICATION, VERSION):
                raise StudyError(
                    f"{self.path} was not written by this version of ancestral; choose another "
                    "folder (--out), or take the file away"
                )
            self._refuse_other(settings)

    def _refuse_other(self, settings: Mapping[str, Any]) -> None:
        found = {
            name: json.loads(value)
            for name, value in self._base.execute("select name, value from settings")
        }
        wanted = json.loads(json.dumps(dict(settings)))
        differ = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
        if differ:
            hidden = {"parameters and arguments"}
            what = "; ".join(
                f"its {name} differ in value"
                if name in hidden
                else f"{name} is {found.get(name)!r} there, and {wanted.get(name)!r} here"
                for name in differ
            )
            raise StudyError(
                f"{self.path} holds another study: {what}; choose another folder (--out), or ask "
                "for the study that is there"
            )

    def claim(self, methods: Mapping[str, str]) -> None:
        """Note which methods the names stand for.

        Raises:
            StudyError: if a name stands for another one in the results that are there.
        """
        with self._explained(), self._written():
            found = dict(self._base.execute("select name, plan from methods").fetchall())
            for name, plan in methods.items():
                if found.get(name, plan) != plan:
                    raise StudyError(
                        f"{self.path} holds another study: its method {name!r} is {found[name]}, "
                        f"and this one's {plan}; give one of them another name, or choose another "
                        "folder (--out)"
                    )
            rows = [item for item in methods.items() if item[0] not in found]
            self._base.executemany("insert into methods values (?, ?)", rows)

    def keep(self, task: Task, result: Result) -> None:
        """Write a result.

        Raises:
            StudyError: if the disk is full; what was kept before stays.
        """
        arrays = (result.seconds, result.losses, result.mean, result.squares)
        row = (task.kind, task.method, task.block, task.count, result.evaluations)
        with self._explained(), self._written():
            self._base.execute(
                "insert or ignore into results values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*row, *(np.ascontiguousarray(each, "<f8").tobytes() for each in arrays)),
            )

    def kept(self) -> set[Task]:
        """Return the tasks that are done."""
        with self._explained():
            rows = self._base.execute("select kind, method, block, count from results").fetchall()
        return {Task(*row) for row in rows}

    def results(self, kind: str, method: str) -> list[tuple[Task, Result]]:
        """Return the results of a method, in the order of their blocks."""
        query = "select * from results where kind = ? and method = ? order by block"
        with self._explained():
            rows = self._base.execute(query, (kind, method)).fetchall()
        return [
            (Task(*row[:4]), Result(row[4], *(_numbers(each) for each in row[5:]))) for row in rows
        ]

    def keep_sites(self, variances: Mapping[str, float]) -> None:
        """Write the variance of each site; a number is read as it was written."""
        with self._explained(), self._written():
            self._base.execute("insert into sites values (?)", (json.dumps(dict(variances)),))

    def sites(self) -> dict[str, float] | None:
        """Return the variance of each site, None if they are not there."""
        with self._explained():
            row = self._base.execute("select variances from sites").fetchone()
        found: dict[str, float] | None = None if row is None else json.loads(row[0])
        return found

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    @contextmanager
    def _written(self) -> Generator[None]:
        """Write what a block writes at once, or nothing of it."""
        self._base.execute("begin exclusive")
        try:
            yield
            self._base.execute("commit")
        except BaseException:
            if self._base.in_transaction:
                self._base.execute("rollback")
            raise

    @contextmanager
    def _explained(self) -> Generator[None]:
        """Raise errors of SQLite as ones that say what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise StudyError(f"{self.path}: {_advice(error)}") from error


def _numbers(blob: bytes) -> Numbers:
    return np.frombuffer(blob, "<f8").astype(np.float64)


def _advice(error: sqlite3.Error) -> str:
    """Return what an error of SQLite means, and what to do."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return DISK_IS_FULL
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return "another process is at work on this study; wait until it has ended"
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return (
                "it is no file of a study, or was damaged; choose another folder (--out), or take "
                "it away"
            )
        case _:
            return f"{error}; all results until then are kept"
