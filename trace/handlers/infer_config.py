"""Inference configuration: additions to the `infer` of the sites of a block."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.handlers.by_name import HandlerError
from ancestral.trace.program.checks import check_infer
from ancestral.trace.recording.message import Message
from ancestral.trace.recording.unused_handlers import Effective


class infer_config(Effective):  # noqa: N801 (the name that users of Pyro know)
    """Add to the `infer` of the sites of a block.

    Args:
        config: returns what is added for a message; what it says wins.

    Raises:
        TypeError: if it is no function.
        HandlerError: within the block, if it returns no mapping.
        SiteError: within it, if it returns a key that nothing reads.
    """

    missing = "its block has no site"

    def __init__(self, config: Callable[[Message], Mapping[str, Any]]) -> None:
        if not callable(config):
            raise TypeError(
                "infer_config takes a function of a message, which returns what to add to its "
                f"infer, not {kind_of(config)}"
            )
        self.config = config

    def process(self, message: Message) -> Message:
        """Add to the `infer` of a sample or a parameter."""
        if message.kind not in ("sample", "param"):
            return message
        self._is_used = True
        added: object = self.config(message)
        if not isinstance(added, Mapping):
            raise HandlerError(
                f"site {message.name!r} ({message.where.location}): the function of infer_config "
                f"returned {kind_of(added)}; expected a mapping of what to add to its infer, {{}} "
                "for nothing"
            )
        check_infer(message.name, added, message.where)
        return replace(message, infer={**message.infer, **added})
