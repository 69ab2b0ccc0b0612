"""Compilation: recordings, and all they call, run eagerly within compiled functions.

A draw is seen where Python calls it, so that nothing of a recording can be part of a graph that
was traced before. The compiler inlines what a function calls, and compiles what it cannot inline
when that is called; it is to do neither.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from ancestral.provenance.tensor.torch_internals import FrameAction, FrameExecStrategy, eval_frame

F = TypeVar("F", bound=Callable[..., Any])
_SKIP, _AS_BEFORE = FrameAction.SKIP, FrameAction.DEFAULT
_REASON = (
    "ancestral follows a program as Python runs it, which no whole graph can: leave out "
    "fullgraph=True, and what is around it is compiled"
)


def eagerly(function: F) -> F:
    """Return the function: the compiler neither inlines nor compiles it, nor what it calls."""
    return _marked(function, _SKIP)


def leaving_compiled_code(function: F) -> F:
    """Return the function, after which nothing more is compiled in this thread.

    Until the compiled function that it is called in returns.
    """
    return _marked(function, _AS_BEFORE)


def as_torch_is(function: F) -> F:
    """Return the function: the compiler takes it as it takes a function of torch in its place.

    It inlines the function where it compiles what calls it, and does not begin with it.
    """
    return _skipped(function, _AS_BEFORE)


def _marked(function: F, inner: Any) -> F:
    marked: Any = function
    marked._torchdynamo_disable = True
    marked._torchdynamo_disable_msg = _REASON
    return _skipped(function, inner)


def _skipped(function: F, inner: Any) -> F:
    code = function.__code__
    eval_frame.set_code_exec_strategy(code, FrameExecStrategy(_SKIP, inner))
    return function


@leaving_compiled_code
def leave_compiled_code() -> None:
    """Compile nothing more; called within a function that is marked so."""
    eval_frame.set_eval_frame(None)
