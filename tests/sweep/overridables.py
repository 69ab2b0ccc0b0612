"""The overridables: every function that torch lets a tensor class override, called by its name.

What the database does not reach is called with the first of a few lists of arguments that it takes.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from torch.overrides import get_overridable_functions, resolve_name

from sweep.arguments import generic, own
from sweep.calls import Call
from sweep.checks import Findings, Sources, check, quiet, spying
from sweep.reasons import REASONS

HAZARDS = frozenset(list(REASONS)[:5])
"""The reasons for which a function is not even tried."""
_ENOUGH = 1  # lists of arguments that a function took


@cache
def overridables() -> dict[str, Callable[..., Any]]:
    """Return the distinct functions by a name, each once."""
    found: dict[str, Callable[..., Any]] = {}
    for functions in get_overridable_functions().values():
        for function in functions:
            found.setdefault(resolve_name(function) or repr(function), function)
    return found


def calls(name: str, function: Callable[..., Any]) -> Iterator[Call]:
    """Yield calls of an overridable to try: with its own arguments, or with the generic ones."""
    short = shortened(name)
    found = {short: args for names, args in own().items() for short in names.split()}
    method = short.removeprefix("Tensor.")
    for args in [found[key] for key in (short, method) if key in found][:1] or generic():
        options = args[-1] if isinstance(args[-1], dict) and args[-1] else {}
        given = args[:-1] if options else args
        yield Call(name, function, given, options, is_finite=True)


@cache
def called(name: str) -> Findings:
    """Return what the generic calls of an overridable showed; it is found once in a session."""
    function, findings, sources = overridables()[name], Findings(), Sources()
    ran = 0
    if reason(name) in HAZARDS:
        return findings
    with quiet(), spying(findings):
        for call in calls(name, function):
            before = findings.follows
            if check(call, sources, findings):
                ran += findings.follows or before
            if ran == _ENOUGH:
                break
    return findings


def reason(name: str) -> str | None:
    """Return why an overridable is not called here, None where no reason is given."""
    return _reasons().get(shortened(name))


def is_excused(name: str) -> bool:
    """Return whether a reason says that an overridable, though it is tried, follows nothing."""
    return reason(name) not in {None, *HAZARDS}


@cache
def _reasons() -> dict[str, str]:
    """Return the first reason of each name."""
    return {
        shortened(name): why for why, names in reversed(REASONS.items()) for name in names.split()
    }


def shortened(name: str) -> str:
    """Return a name without torch's own, and with F for torch.nn.functional."""
    return name.replace("torch.nn.functional.", "F.").removeprefix("torch.")
