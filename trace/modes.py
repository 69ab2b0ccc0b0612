"""Modes: taken off torch's stacks from wherever they are, with those above left in place."""

from typing import Any

from ancestral.provenance.torch_internals import (
    current_dispatch_mode,
    len_torch_function_stack,
    pop_top_mode,
    pop_torch_function_stack,
    push_mode,
    push_on_torch_function_stack,
)


def pop_function_mode(mode: Any) -> None:
    """Take a mode off the stack of torch functions."""
    above: list[Any] = []
    while len_torch_function_stack():
        top = pop_torch_function_stack()
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        push_on_torch_function_stack(other)


def pop_dispatch_mode(mode: Any) -> None:
    """Leave a mode of the dispatcher."""
    above: list[Any] = []
    leave: Any = mode.__exit__
    while current_dispatch_mode() not in (mode, None):
        above.append(pop_top_mode())
    if current_dispatch_mode() is mode:
        leave(None, None, None)
    for other in reversed(above):
        push_mode(other)
