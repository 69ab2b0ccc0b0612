"""Replacement: a file that takes the place of another only once it is whole."""

import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Generator[BinaryIO]:
    """Open a new file that takes the place of `path` if the block succeeds."""
    target = Path(os.path.realpath(path))  # a link stays a link
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {path}: there is no folder {target.parent}")
    if target.exists():
        target.open("r+b").close()  # raises if it is a folder or must not be written
    # Not tempfile, whose files only their owner may read.
    fresh = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with fresh.open("xb") as file:
            yield file
        if target.exists():
            shutil.copymode(target, fresh)  # what only its owner may read stays that
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)
