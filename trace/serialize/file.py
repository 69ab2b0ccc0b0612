"""Files of traces: one trace as plain data, written and read as a whole.

A file is a line with the version of the format, a digest by which damage is found, and what
``torch.save`` writes of plain data. It holds no code, and `load` runs none.
"""

import errno
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from ancestral.trace.serialize.nodes import Content, from_dict, to_dict
from ancestral.trace.serialize.plain import Plain, unreadable

FORMAT, VERSION = b"trace of ancestral, version ", b"4"


def save(content: Content, path: str | Path) -> None:
    """Write a trace into a file, which takes the place of another once it is whole."""
    body = io.BytesIO()
    torch.save(to_dict(content), body)
    with replacing(Path(path)) as file:
        file.write(FORMAT + VERSION + b"\n" + _digest(body.getbuffer()))
        file.write(body.getbuffer())


def load(path: str | Path) -> Content:
    """Return the trace of a file.

    Raises:
        StoredTraceError: if the file holds no trace, or was damaged.
        OSError: if it cannot be read.
    """
    return from_dict(_read(Path(path)), str(path))


def _digest(body: bytes | memoryview) -> bytes:
    return hashlib.sha256(body).digest()


def _read(path: Path) -> Plain:
    """Return the plain data of a file."""
    found = path.read_bytes()
    if not found.startswith(FORMAT):
        raise unreadable("it was not written by Trace.save, or was damaged", str(path))
    version, _, rest = found.removeprefix(FORMAT).partition(b"\n")
    if version != VERSION:
        raise unreadable(
            f"its version is {version[:9].decode(errors='replace')}; expected {VERSION.decode()}, "
            "the one that this version of ancestral writes; read it with the ancestral that wrote "
            "it",
            str(path),
        )
    digest, body = rest[:32], rest[32:]
    if digest != _digest(body):
        raise unreadable("it was damaged: its content does not fit its digest", str(path))
    try:
        return torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    except Exception as error:
        # Without the text of torch, which tells how to run the code that a file may hold.
        problem = f"it holds more than plain data ({type(error).__name__})"
        raise unreadable(problem, str(path)) from None


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Open a new file that takes the place of `path` if the block succeeds.

    Raises:
        OSError: with the path that was asked for, if nothing can be written there.
    """
    target = Path(os.path.realpath(path))  # a link stays a link
    # Not tempfile, whose files only their owner may read.
    fresh = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        if not target.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, f"there is no folder {target.parent}")
        if target.exists():
            if not target.is_file():
                raise OSError(errno.EISDIR if target.is_dir() else errno.EINVAL, "it is no file")
            target.open("r+b").close()  # raises if it must not be written
        try:
            with fresh.open("xb") as file:
                yield file
            if target.exists():
                shutil.copymode(target, fresh)  # what only its owner may read stays that
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(target), str(fresh)):
            raise  # of something else that the block did
        raise OSError(error.errno, f"cannot write {path}: {error.strerror}") from error
