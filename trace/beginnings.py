"""Beginnings: how the leaves of a store were when it got them, which tells what was trained."""

import warnings
from collections.abc import Iterable, Mapping

from torch import Tensor

from ancestral.trace.param_errors import LateParamWarning
from ancestral.trace.request import Request

Leaves = Mapping[str, Tensor | None]


class Beginnings:
    """How often each leaf of a store had been written into when it was made or loaded."""

    def __init__(self) -> None:
        """Begin without leaves."""
        self._versions: dict[str, int] = {}

    def note(self, leaves: Leaves, names: Iterable[str]) -> None:
        """Take the leaves of these names, those that there are, as they are now."""
        for name in names:
            leaf = leaves.get(name)
            if leaf is not None and not leaf.is_inference():  # which counts nothing
                self._versions[name] = leaf._version

    def warn_if_late(self, request: Request, leaves: Leaves) -> None:
        """Warn of a parameter that is made now, where an optimizer has changed others already."""
        for name, leaf in leaves.items():
            begun = self._versions.get(name)
            if leaf is None or begun is None or leaf.is_inference():
                continue
            if leaf._version > begun:
                where = request.where.location
                message = LateParamWarning(request.name, where, name)
                warnings.warn_explicit(message, None, where.filename, where.line)
                return
