"""Entry: the function that the compiler is given for a loss, and what is put around its code."""

from collections.abc import Callable, Sequence
from functools import cache
from types import FunctionType
from typing import Any, ParamSpec

import torch
from torch import Tensor
from torch.compiler import is_dynamo_compiling

from ancestral.estimators.capture.programs import opened
from ancestral.estimators.capture.refusal import Refusal
from ancestral.trace.params.store import ParamStore

P = ParamSpec("P")


class AsItIs(Refusal):
    """What the compiler is given runs as it is, as under `set_stance`: there would be no scores."""


def entry(function: Callable[P, Tensor]) -> Callable[..., Tensor]:
    """Return a function whose code no other has: by their code the compiler counts plans.

    It is given the store of parameters that is open, so that the compiler guards it. It lives where
    the function does, whose module nobody may be able to import: so it has names of this as cells.
    """
    is_read, state, refusal = is_dynamo_compiling, opened, AsItIs

    def step(store: ParamStore | None, *args: P.args, **kwargs: P.kwargs) -> Tensor:
        if not is_read():
            raise refusal("the compiler was told to run what it is given as it is")
        if store is None:  # what is written is written in each step
            return function(*args, **kwargs)
        state.stores = (store,)
        found = function(*args, **kwargs)
        state.stores = ()
        return found

    home = getattr(function, "__globals__", globals())
    return FunctionType(step.__code__.replace(), home, "step", None, step.__closure__)


def _called(step: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return step(*args, **kwargs)


@cache
def apart() -> Callable[..., Tensor]:
    """Return what calls a step within a function that is compiled, and no part of it."""
    # Made where a step is: it imports the compiler, which takes longer than all of this library.
    reason = "a compiled step is no part of another graph"
    found: Callable[..., Tensor] = torch.compiler.disable(_called, reason=reason)
    return found


def with_more(code: Callable[..., Any], more: Sequence[Tensor]) -> Callable[..., Any]:
    """Return code that is given more arguments after its own."""
    return lambda *inputs: code(*inputs, *more)


def with_indices(code: Callable[..., Any], known: dict[int, Tensor]) -> Callable[..., Any]:
    """Return code that is a plan for these values of some arguments only."""

    def checked(*inputs: Any) -> Any:
        for at, value in known.items():
            if not torch.equal(inputs[at], value):
                raise Refusal("an index or a mask by which it takes elements has other values")
        return code(*inputs)

    return checked
