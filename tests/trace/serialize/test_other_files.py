"""Saving: what is no stored trace is refused, and nothing of a file is run."""

import copy
import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from stored import file_in, names, of_everything, run

import ancestral as an
from ancestral.errors import StoredTraceError

trace = pytest.fixture(of_everything)
path = pytest.fixture(file_in)


def sealed(data: object) -> bytes:
    """Return a file of the right version with the right digest."""
    saved = io.BytesIO()
    torch.save(data, saved)
    body = data if isinstance(data, bytes) else saved.getvalue()
    return b"trace of ancestral, version 4\n" + hashlib.sha256(body).digest() + body


class Malice:
    def __reduce__(self) -> Any:
        return os.mkdir, ("was-run",)


def test_no_code_of_a_file_is_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    run(names).save(path)
    swapped = io.BytesIO()
    body = io.BytesIO(path.read_bytes().partition(b"\n")[2][32:])
    with zipfile.ZipFile(body) as before, zipfile.ZipFile(swapped, "w") as after:
        for name in before.namelist():
            is_pickle = name.endswith("data.pkl")
            after.writestr(name, pickle.dumps(Malice()) if is_pickle else before.read(name))
    for bad in ({"nodes": Malice()}, swapped.getvalue(), pickle.dumps(Malice())):
        path.write_bytes(sealed(bad))
        with pytest.raises(StoredTraceError, match=r"a\.trace .* more than plain data") as caught:
            an.Trace.load(path)
        assert "weights_only" not in str(caught.value)  # torch tells how to run the code
    assert not Path("was-run").exists()


@pytest.mark.parametrize("other", [b"3", b"5", b"?"])
def test_a_file_of_another_version_is_refused(path: Path, other: bytes) -> None:
    run(names).save(path)
    path.write_bytes(path.read_bytes().replace(b"version 4", b"version " + other, 1))
    with pytest.raises(StoredTraceError, match=rf"a\.trace is no .* is [{other.decode()}]; expec"):
        an.Trace.load(path)


def test_a_file_that_was_damaged_or_cut_short_is_refused(path: Path) -> None:
    run(names).save(path)
    content = path.read_bytes()
    for at in range(0, len(content), len(content) // 50):
        changed = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
        for damaged in (content[:at], changed):
            path.write_bytes(damaged)
            with pytest.raises(StoredTraceError, match=r"damaged|its version is"):
                an.Trace.load(path)


def test_something_else_is_refused(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        an.Trace.load(path)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(StoredTraceError, match=r"not written by Trace\.save"):
        an.Trace.load(path)
    for data, found in ({}, "'sources' is missing"), ([1], "'it' is a list; expected a dict"):
        path.write_bytes(sealed(data))
        with pytest.raises(StoredTraceError, match=rf"a\.trace is no .*{found}"):
            an.Trace.load(path)


def test_a_file_stays_if_its_replacement_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = run(names)
    trace.save(path)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    for owner, name in ((torch, "save"), (Path, "replace")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, fail)
            with pytest.raises(OSError, match="full"):
                trace.save(path)
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["a.trace"]


@pytest.mark.skipif(os.name == "nt", reason="there are no modes of files")
def test_a_file_that_is_replaced_keeps_its_mode(path: Path) -> None:
    run(names).save(path)
    path.chmod(0o600)
    run(names).save(path)
    assert path.stat().st_mode & 0o777 == 0o600


CLAIMS = ("nodes", 3, "param_provenance", "claims")


@pytest.mark.parametrize(
    ("keys", "value", "found"),
    [
        ((), 3, "'it' is a int; expected a dict"),
        (("nodes", 0, "name"), 3, "'name' is a int; expected a str"),
        (("nodes", 0, "is_observed"), 1, "'is_observed' is a int; expected a bool"),
        (("nodes", 0, "event_dims"), True, "'event_dims' is a bool; expected a int"),
        (("nodes", 0, "type"), "code", "no node of type 'code'"),
        (("nodes", 0, "value"), [1.0], "'value' is a list; expected a Tensor"),
        (("nodes", 0, "scale"), "x", "'scale' is a str; expected a float"),
        (("nodes", 0, "location"), {}, "'filename' is missing"),
        (("nodes", 0, "source"), True, "'source' is a bool; expected a int"),
        (("nodes", 0, "source"), 99, "no source of number 99"),
        (("nodes", 0, "source"), -1, "no source of number -1"),
        ((*CLAIMS, 0, 0, "dims"), [0, 0], "an alignment of 0 dimensions has others"),
        ((*CLAIMS, 0, 0, "there"), [[0, 1]], "ValueError"),
        (CLAIMS, [], "a dependency has no source"),
        (("nodes", 0, "fn"), 3, "'fn' is a int; expected a dict"),
        (("nodes", 0, "fn", "class"), "Module", "no distribution or transform called 'Module'"),
        (("nodes", 0, "fn", "class"), "ExpTransform", "'fn' is a ExpTransform; expected a Distr"),
        (("nodes", 0, "fn", "state", "log_prob"), 1, "cannot hold 'log_prob'"),
        (("nodes", 0, "fn", "state", "__class__"), 1, "cannot hold '__class__'"),
        (("nodes", 1, "name"), "z", "two nodes have one name"),
        (("nodes",), None, "'nodes' is a NoneType"),
        (("sources",), [], "no source of number"),
    ],
)
def test_data_that_is_no_trace_is_refused(
    trace: an.Trace, keys: tuple[Any, ...], value: Any, found: str
) -> None:
    whole: Any = [copy.deepcopy(trace.to_dict())]
    inner, place = whole, 0
    for key in keys:
        inner, place = inner[place], key
    inner[place] = value
    with pytest.raises(StoredTraceError, match=f"^this is no trace that can be read: .*{found}"):
        an.Trace.from_dict(whole[0])
