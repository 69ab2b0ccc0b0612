"""Errors of sites: one family, each naming the site, its line, what was expected and what came."""

from collections.abc import Iterable
from difflib import get_close_matches

from ancestral.trace.context.argument_checks import short

_SHOWN = 20


class SiteError(ValueError):
    """Something is wrong with a site of a program."""


class EnumerationError(SiteError):
    """A site cannot be enumerated, or what depends on an enumerated one cannot be followed."""


class UnknownNodeError(SiteError, KeyError):
    """A trace is asked for a site that it does not have."""

    __str__ = ValueError.__str__  # that of a KeyError quotes


def unknown_node(name: object, known: Iterable[str]) -> UnknownNodeError:
    """Return the error that a trace has no site of a name, and which it has."""
    known = list(known)
    return UnknownNodeError(
        f"the trace has no site {short(name)}; it has {listed(known)}{guessed([name], known)}"
    )


class TransformError(NotImplementedError):
    """A draw, or a tracked tensor, is where torch computes what cannot be followed.

    Within a transform of `torch.func`, a trace of `torch.jit`, a reentrant checkpoint, or the
    forward of a `torch.autograd.Function`.
    """


def listed(names: Iterable[str]) -> str:
    """Return names as a text, those beyond the first twenty by their number.

    >>> listed(["a", "b"]), listed([])
    ("'a', 'b'", 'none')
    """
    some = [repr(name) for name in names]
    more = f" and {len(some) - _SHOWN} more" if len(some) > _SHOWN else ""
    return f"{', '.join(some[:_SHOWN]) or 'none'}{more}"


def guessed(missing: Iterable[object], known: Iterable[str]) -> str:
    """Return the question whether names like those that are missing were meant, if there are any.

    >>> guessed(["sigm"], ["mu", "sigma"])
    "; did you mean 'sigma'?"
    """
    known = list(known)
    close = dict.fromkeys(
        c for name in missing if isinstance(name, str) for c in get_close_matches(name, known)
    )
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
