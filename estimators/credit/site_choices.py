"""Choices for each site: one for all, by patterns of names, or in the `infer` of a site."""

import warnings
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeAlias, TypeVar

from ancestral.trace.context.place import stacklevel
from ancestral.trace.nodes.node import Node

T = TypeVar("T")

PerSite: TypeAlias = T | Mapping[str, T]
"""One choice for all sites, or one for each pattern of names, such as ``{"z*": ..., "*": ...}``."""


class PatternWarning(UserWarning):
    """A pattern of names matches no site."""


class Choices(Generic[T]):
    """What is chosen for each site: by the first pattern that matches, else by `infer`, else all.

    Args:
        keyword: the argument, and the key of `infer`.
        given: the argument.
        default: what holds for a site that no pattern matches.
        in_infer: the key of `infer`, if it is another.
    """

    def __init__(
        self, keyword: str, given: PerSite[T], default: T, in_infer: str | None = None
    ) -> None:
        is_one = not isinstance(given, Mapping)
        self._keyword = keyword
        self._in_infer = keyword if in_infer is None else in_infer
        self._patterns: Mapping[str, T] = {} if is_one else given  # type: ignore[assignment]
        self._default: Any = given if is_one else default

    def values(self) -> tuple[T, ...]:
        """Return what the argument chooses."""
        return (*self._patterns.values(), self._default)

    def of(self, node: Node) -> T:
        """Return what is chosen for a site."""
        for pattern, choice in self._patterns.items():
            if fnmatchcase(node.name, pattern):
                return choice
        found: T = node.infer.get(self._in_infer, self._default)
        return found

    def warn_of_unused(self, names: Collection[str]) -> None:
        """Warn of patterns that match none of the sites of a recording."""
        for pattern in self._patterns:
            if not any(fnmatchcase(name, pattern) for name in names):
                known = ", ".join(map(repr, names)) or "none"
                warning = PatternWarning(
                    f"{self._keyword}= has a choice for {pattern!r}, which matches no site of this "
                    f"recording: its sites are {known}"
                )
                warnings.warn(warning, stacklevel=stacklevel())
