"""Twins: a module that computes with other values in the place of its parameters.

>>> import torch
>>> net = nn.Linear(2, 1, bias=False)
>>> twin(net, {net.weight: torch.ones(1, 2)})(torch.ones(2)), net.weight.shape
(tensor([2.]), torch.Size([1, 2]))
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def twin(module: M, values: Mapping[nn.Parameter, Tensor]) -> M:
    """Return a module that has these values for parameters, and shares all else with `module`.

    All that its attributes reach by modules, methods, lists, tuples, sets and dictionaries is
    replaced with it. While it is called, `module` itself has the values too, for what reaches it
    in another way, such as a closure.
    """
    memo: dict[int, Any] = {id(leaf): value for leaf, value in values.items()}
    for each in module.modules():
        memo[id(each)] = object.__new__(type(each))
    for each in module.modules():
        # What is written into the twin's buffers, running statistics, is the module's.
        attributes = {
            key: value if key == "_buffers" else _replaced(value, memo)
            for key, value in vars(each).items()
        }
        object.__setattr__(memo[id(each)], "__dict__", attributes)
    found: M = memo[id(module)]
    named = {
        f"module.{name}": values[leaf]
        for name, leaf in module.named_parameters(remove_duplicate=False)
        if leaf in values
    }
    calling = _Calling(module, found.forward)

    def forward(*args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(calling, named, args, kwargs)

    vars(found)["forward"] = forward
    return found


class _Calling(nn.Module):
    """Calls a function; what it reaches of a module has the values of a functional call."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)


def _replaced(value: Any, memo: dict[int, Any]) -> Any:
    """Return an attribute with what `memo` has in the place of all that it reaches."""
    if id(value) in memo:
        return memo[id(value)]
    kind = type(value)
    if kind in (dict, OrderedDict):
        items = {key: _replaced(item, memo) for key, item in value.items()}
        return _same_or(value, value.values(), items.values(), lambda: kind(items))
    if kind in (list, tuple, set):
        parts = [_replaced(item, memo) for item in value]
        return _same_or(value, value, parts, lambda: kind(parts))
    if kind is MethodType and id(value.__self__) in memo:
        return MethodType(value.__func__, memo[id(value.__self__)])
    if kind is functools.partial:
        own = (value.func, value.args, value.keywords)
        func, args, keywords = _replaced(own, memo)
        return _same_or(value, own, (func, args, keywords), lambda: kind(func, *args, **keywords))
    return value


def _same_or(value: Any, own: Any, new: Any, make: Callable[[], Any]) -> Any:
    """Return the container itself where nothing in it was replaced, else a new one."""
    return value if all(a is b for a, b in zip(own, new, strict=True)) else make()
