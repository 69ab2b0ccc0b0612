"""Errors of parameters: each names the parameter, the line, what was expected and what came."""

from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Location
from ancestral.trace.recording.message import Message


class ParamError(SiteError):
    """Something is wrong with a parameter of a program."""


def wrong_param(message: Message, problem: str) -> ParamError:
    """Return the error of a parameter, with its line."""
    return ParamError(f"parameter {message.name!r} ({message.where.location}): {problem}")


class StoreError(SiteError):
    """A store is asked for what it does not have, or by torch for what it cannot do."""


class ParamWarning(UserWarning):
    """A parameter is made later than an optimizer, or the state of a store, can know of."""


def mismatch(
    message: Message, aspect: str, found: object, expected: object, first: Location | None
) -> ParamError:
    """Return the error of a parameter that is asked for as another than it is."""
    known = "as it was loaded" if first is None else f"as it was first asked for at {first}"
    return wrong_param(message, f"{aspect} is {found}; expected {expected}, {known}")


def misfit(message: Message, found: str, expected: str) -> ParamError:
    """Return the error of a value that a handler gives, and that the parameter cannot have."""
    return wrong_param(message, f"it is given {found}; expected {expected}")
