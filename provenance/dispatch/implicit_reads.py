"""Readings: the numbers that torch takes out of tracked tensors in C++ while it runs an op.

They may decide the shape of a result, which Python can read. Whoever meets the numbers notes them
here, and the op that was run looks whether there are any.
"""

import threading
from typing import Any

from ancestral.provenance.algebra.provenance import Provenance
from ancestral.provenance.rules.registry import NUMBERS


class _Local(threading.local):
    def __init__(self) -> None:
        self.found: list[Provenance] = []
        # Whether a function that is not followed has read a number, or made a shape of values.
        self.is_decided = False


local = _Local()


def note(found: Provenance) -> None:
    """Note that the number in a tensor of this provenance was read."""
    local.found.append(found)


def take(func: Any) -> list[Provenance]:
    """Return what was read while a function ran and may have decided a shape; forget it."""
    found, local.found = local.found, []
    return [] if func.__name__.split(".")[0].rstrip("_") in NUMBERS else found
