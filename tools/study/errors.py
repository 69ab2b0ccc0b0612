"""Errors of a study."""


class StudyError(ValueError):
    """A study cannot begin, go on or be written as it is asked for; nothing of it is lost."""


class WorkerError(RuntimeError):
    """The processes at work on a study die, or do not compute what this one does."""
