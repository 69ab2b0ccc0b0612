"""Expected types: a trace, or the program that makes one."""

from collections.abc import Mapping

from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.graph.graph import Graph
from ancestral.trace.nodes.node import Node


def check_trace(verb: str, *traces: object) -> None:
    """Raise unless the arguments are traces, the nodes of a run by name.

    Raises:
        TypeError: if one is none.
    """
    for given in traces:
        if _is_trace(given):
            continue
        advice = (
            "ask the trace that the graph is of"
            if isinstance(given, Graph)
            else "record one first: `with an.record() as trace: model()`"
            if callable(given)
            else "it is what `with an.record() as trace:` gives"
        )
        raise TypeError(f"{verb} takes a Trace, not {kind_of(given)}; {advice}")


def check_program(verb: str, role: str, program: object) -> None:
    """Raise unless what is to be run is a program.

    Raises:
        TypeError: if it is none.
    """
    if callable(program):
        return
    advice = (
        "give the function that the trace was recorded of"
        if _is_trace(program)
        else "give the function itself, without calling it"
    )
    raise TypeError(f"{verb} takes the {role} as a function, not {kind_of(program)}; {advice}")


def _is_trace(given: object) -> bool:
    return isinstance(given, Mapping) and all([isinstance(node, Node) for node in given.values()])
