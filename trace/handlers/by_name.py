"""Handlers by name: those that take values for sites that they name, all of which must exist."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Self

from torch import Tensor

from ancestral.provenance.algebra.alignment import Shape
from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.context.errors import SiteError, guessed, listed
from ancestral.trace.context.place import place
from ancestral.trace.recording.message import Handler, Message, Raised


class HandlerError(SiteError):
    """A handler cannot do to a site what it is to do."""


class UnknownSiteError(SiteError):
    """Something is said of a site that the program has not."""


def by_name(verb: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the values that a handler is given, by the name of the site.

    Raises:
        TypeError: if they are no mapping of texts.
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{verb} takes a mapping of names to values, not {kind_of(values)}; a function comes "
            f"afterwards, as in {verb}(values)(model)"
        )
    for name in values:
        if not isinstance(name, str):
            raise TypeError(f"{verb} takes values by the names of sites, not by {kind_of(name)}")
    return dict(values)


def no_random_choice(message: Message, verb: str) -> HandlerError:
    """Return the error that a value is to be given to what the program computes."""
    return HandlerError(
        f"{verb} cannot give {message.name!r} ({message.where.location}) a value: it is "
        "deterministic, computed by the program, with no density; set it from "
        "outside with handlers.do, give values to the sites that it is computed from, or state "
        "what is measured of it: an.sample(name, Normal(value, error), obs=data); a site that "
        "reparam made so is given its value within that handler"
    )


def broadcasts(shape: Shape, whole: Shape) -> bool:
    """Return whether a shape broadcasts to another, which stays as it is.

    >>> broadcasts((3,), (2, 3)), broadcasts((2, 3), (1, 3))
    (True, False)
    """
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(ours in (1, theirs) for ours, theirs in pairs)


class ByName(Handler):
    """Raises at the end of a block that did not ask for all of some names."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = tuple(names)
        self._where = place().location

    def __enter__(self) -> Self:
        """Open the block."""
        _open.set((*_open.get(), (self, [])))
        return super().__enter__()

    def __exit__(self, *raised: *Raised) -> None:
        """Close the block.

        Raises:
            UnknownSiteError: if a name was not asked for.
        """
        super().__exit__(*raised)
        block = self._block()
        _open.set(tuple(other for other in _open.get() if other is not block))
        met = dict.fromkeys(block[1])
        missing = [name for name in self._names if name not in met]
        if missing and raised[1] is None:
            free = [name for name in met if name not in self._names]
            raise UnknownSiteError(
                f"{type(self).__name__} at {self._where}: the program has no site "
                f"{', '.join(map(repr, missing))}; the others that it has are "
                f"{listed(free)}{guessed(missing, free)}"
            )

    def meet(self, name: str) -> None:
        """Note that the program has a site of this name."""
        self._block()[1].append(name)

    def _block(self) -> "_Block":
        """Return the innermost open block of this handler."""
        return next(block for block in reversed(_open.get()) if block[0] is self)


_Block = tuple[ByName, list[str]]  # a handler, and the names that its block asked for
# One handler may be open in many threads at once, and many times in one.
_open: "ContextVar[tuple[_Block, ...]]" = ContextVar("open blocks of names", default=())
