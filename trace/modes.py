"""Modes: taken off torch's stacks from wherever they are, with those above left in place."""

from typing import Any

import torch
from torch.utils import _python_dispatch


def pop_function_mode(mode: Any) -> None:
    """Take a mode off the stack of torch functions."""
    above: list[Any] = []
    while torch._C._len_torch_function_stack():  # pyright: ignore[reportPrivateUsage]
        top = torch._C._pop_torch_function_stack()  # pyright: ignore[reportPrivateUsage]
        if top is mode:
            break
        above.append(top)
    for other in reversed(above):
        torch._C._push_on_torch_function_stack(other)  # pyright: ignore[reportPrivateUsage]


def pop_dispatch_mode(mode: Any) -> None:
    """Leave a mode of the dispatcher."""
    above: list[Any] = []
    leave: Any = mode.__exit__
    while _python_dispatch._get_current_dispatch_mode() not in (mode, None):
        above.append(_python_dispatch._pop_mode())
    if _python_dispatch._get_current_dispatch_mode() is mode:
        leave(None, None, None)
    for other in reversed(above):
        _python_dispatch._push_mode(other)
