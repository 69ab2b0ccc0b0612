"""Late parameters: leaves that enter a store after an optimizer was made, or changed since."""

import warnings
from collections.abc import Iterable, Mapping

from torch import Tensor

from ancestral.trace.params.errors import LateParamWarning, NotLoadedWarning
from ancestral.trace.recording.message import Message

Leaves = Mapping[str, Tensor | None]


class Beginnings:
    """How often each leaf of a store had been written into when it was made or loaded."""

    def __init__(self) -> None:
        """Begin without leaves."""
        self._versions: dict[str, int] = {}
        self._is_loaded = False

    def note(self, leaves: Leaves, names: Iterable[str]) -> None:
        """Take the leaves of these names, those that there are, as they are now."""
        for name in names:
            leaf = leaves.get(name)
            if leaf is not None and not leaf.is_inference():  # which counts nothing
                self._versions[name] = leaf._version

    def note_loaded(self, leaves: Leaves, names: Iterable[str]) -> None:
        """Take the leaves of a state that was loaded."""
        self.note(leaves, names)
        self._is_loaded = True

    def warn_if_late(self, message: Message, leaves: Leaves) -> None:
        """Warn of a parameter that is made now, though a state was loaded, or others were trained.

        An optimizer that has changed others already does not know it.
        """
        if self._is_loaded:
            _warn(NotLoadedWarning(message.name, message.where.location), message)
            return
        for name, leaf in leaves.items():
            begun = self._versions.get(name)
            if leaf is None or begun is None or leaf.is_inference():
                continue
            if leaf._version > begun:
                _warn(LateParamWarning(message.name, message.where.location, name), message)
                return


def _warn(warning: Warning, message: Message) -> None:
    where = message.where.location
    warnings.warn_explicit(warning, None, where.filename, where.line)
