"""Compiled code: within a function that torch compiles, a recording and all it calls run eagerly.

A draw is seen where Python calls it, so that nothing of a recording can be part of a graph that
was traced before. The compiler inlines what a function calls, and compiles what it cannot inline
when that is called; it is to do neither.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])
_compiler: Any = torch._C._dynamo.eval_frame  # in C: the compiler itself takes a second to import
_SKIP, _AS_BEFORE = _compiler._FrameAction.SKIP, _compiler._FrameAction.DEFAULT
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


def _marked(function: F, inner: Any) -> F:
    marked: Any = function
    marked._torchdynamo_disable = True
    marked._torchdynamo_disable_msg = _REASON
    _compiler.set_code_exec_strategy(marked.__code__, _compiler._FrameExecStrategy(_SKIP, inner))
    return function


@leaving_compiled_code
def leave_compiled_code() -> None:
    """Compile nothing more; called within a function that is marked so."""
    _compiler.set_eval_frame(None)
