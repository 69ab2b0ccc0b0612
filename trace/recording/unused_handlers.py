"""Handlers without effect: warnings where a block had nothing that they could change."""

import warnings
from typing import TypeVar

from ancestral.trace.context.place import Location, place
from ancestral.trace.recording.message import Handler, Raised


class NoEffectWarning(UserWarning):
    """A handler was open around a block in which it changed nothing."""


class Effective(Handler):
    """Warns at the end of a block, once a line, if there was nothing for it to change.

    Attributes:
        missing: what there was not, for the message.
    """

    missing = ""
    _is_used = False

    def __exit__(self, *raised: *Raised) -> None:
        """Close the block."""
        super().__exit__(*raised)
        if self._is_used or raised[1] is not None:
            return
        where = place().location
        warn_of(
            where,
            NoEffectWarning(
                f"{type(self).__name__} at {where} had no effect: {self.missing}; open it around "
                "the statements that it is to change, or take it away"
            ),
        )


def warn_of(where: Location, warning: Warning) -> None:
    """Warn of a line of the user: once, if the filters say so, as they do by default."""
    registry = globals().setdefault("__warningregistry__", {})
    warnings.warn_explicit(warning, None, where.filename, where.line, registry=registry)


H = TypeVar("H", bound=Effective)


def unchecked(handler: H) -> H:
    """Return a handler that may have nothing to change."""
    handler._is_used = True
    return handler
