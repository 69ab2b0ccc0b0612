"""Block: statements hidden from the handlers and recordings around."""

from collections.abc import Callable
from dataclasses import replace

from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.handlers.by_name import ByName
from ancestral.trace.recording.message import Message


class block(ByName):  # noqa: N801 (used as a verb: with block("z"): ...)
    """Hide statements of a block from the handlers and the recordings around it.

    What is hidden is drawn nevertheless: a gradient of what depends on it counts its
    score.

    Args:
        names: the names of the sites to hide; without any, all of them.
        where: hide what it says of a message instead.

    Raises:
        ValueError: if both are given.
        TypeError: if a name is no text, or `where` no function.
        UnknownSiteError: at the end of the block, if it has no such site.
    """

    def __init__(self, *names: str, where: Callable[[Message], bool] | None = None) -> None:
        if names and where is not None:
            raise ValueError("block takes either names or where=, not both")
        if where is not None and not callable(where):
            raise TypeError(
                "block: where must be a function of a message, which returns whether to hide it, "
                f"not {kind_of(where)}"
            )
        verb = type(self).__name__
        for name in names:
            if not isinstance(name, str):
                raise TypeError(
                    f"{verb} takes names one by one, as in {verb}('a', 'b'), not {kind_of(name)}: "
                    "unpack a list of them with a star"
                )
        super().__init__(names)
        self.where = where

    def __repr__(self) -> str:
        """Show what it hides, or not."""
        shown = map(repr, self._names) if self.where is None else [f"where={short(self.where)}"]
        return f"{type(self).__name__}({', '.join(shown)})"

    def process(self, message: Message) -> Message:
        """Stop a message that is to be hidden."""
        self.meet(message.name)
        return replace(message, is_stopped=True) if self._is_hidden(message) else message

    def _is_hidden(self, message: Message) -> bool:
        if self.where is not None:
            return self.where(message)
        return not self._names or message.name in self._names


class expose(block):  # noqa: N801
    """Hide all statements of a block but those named from the handlers and recordings around it.

    Args:
        names: the names of the sites that are seen.

    Raises:
        TypeError: if a name is no text.
        UnknownSiteError: at the end of the block, if it has no such site.
    """

    def __init__(self, *names: str) -> None:
        super().__init__(*names)

    def _is_hidden(self, message: Message) -> bool:
        return message.name not in self._names
