"""Trust: the modules whose reads of values the user takes for checks or logging."""

import importlib.util
import sys
from collections.abc import Iterable

from ancestral.trace.context.argument_checks import kind_of, short
from ancestral.trace.context.errors import guessed

Trust = str | Iterable[str]


def trusted(trust: Trust) -> tuple[str, ...]:
    """Return the names of modules that are trusted.

    Raises:
        TypeError: if they are no texts.
        ValueError: if there is no module of a name.
    """
    names = (trust,) if isinstance(trust, str) else trust
    if not isinstance(names, Iterable):
        raise TypeError(f"trust takes the names of modules, such as ('rl4co',), not {short(trust)}")
    found = tuple(names)
    for name in found:
        if not isinstance(name, str):
            raise TypeError(
                f"trust takes the names of modules, such as ('rl4co',); {kind_of(name)} is none"
            )
        if not _is_module(name):
            known = [each for each in sys.modules if not each.startswith("_")]
            raise ValueError(
                f"trust has {name!r}, and there is no module of that name"
                f"{guessed([name], known)}; expected what `import` takes, such as "
                "trust=('rl4co',), for a package and all in it"
            )
    return found


def _is_module(name: str) -> bool:
    if name in sys.modules:
        return True
    if not all(part.isidentifier() for part in name.split(".")):
        return False
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package that is missing, or is none
        return False
