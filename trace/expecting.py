"""Expecting: what functions of a trace say of something else that they are given."""

from collections.abc import Mapping

from ancestral.trace.node import Node


def check_trace(found: object, verb: str) -> None:
    """Raise unless something is a trace, the nodes of a run by name.

    Raises:
        TypeError: if it is none.
    """
    if isinstance(found, Mapping) and all(isinstance(node, Node) for node in found.values()):
        return
    raise TypeError(
        f"{verb} takes a Trace, not a {type(found).__name__}; give that of a run, as "
        "in `with an.record() as trace: model()`"
    )
