"""Recorded: what asks for a trace is told from what asks for the program that makes one."""

from ancestral.trace.arguments import kind_of
from ancestral.trace.graph import Graph
from ancestral.trace.record import Trace


def check_trace(verb: str, *traces: object) -> None:
    """Raise unless what a question is asked of are traces.

    Raises:
        TypeError: if one is none.
    """
    for given in traces:
        if isinstance(given, Trace):
            continue
        advice = (
            "it is asked of the trace that the graph is of"
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
        if isinstance(program, Trace)
        else "give the function itself, without calling it"
    )
    raise TypeError(f"{verb} takes the {role} as a function, not {kind_of(program)}; {advice}")
