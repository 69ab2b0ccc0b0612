"""Errors of a study."""

import errno
from collections.abc import Generator
from contextlib import contextmanager

DISK_IS_FULL = (
    "the disk is full; all results until then are kept: make room, and start the same study again "
    "to go on"
)


class StudyError(ValueError):
    """A study cannot begin, go on or be written as it is asked for; nothing of it is lost."""


class WorkerError(RuntimeError):
    """The processes at work on a study die, or do not compute what this one does."""


@contextmanager
def writing() -> Generator[None]:
    """Write a file beside the results; a full disk is said as it is of these.

    Raises:
        StudyError: if the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StudyError(f"{error.strerror}: {DISK_IS_FULL}") from error
