"""Replacement: a file that takes the place of another only once it is whole."""

import errno
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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
