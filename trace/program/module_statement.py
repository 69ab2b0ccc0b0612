"""Module statement: a network under a name, with its parameters in a store.

Where a handler gives parameters other values, the program goes on with a twin of the network that
computes with them, tracked as they are.
"""

import functools
from collections import OrderedDict
from collections.abc import Mapping
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn.parameter import is_lazy

from ancestral.trace.context.errors import SiteError
from ancestral.trace.context.place import Place, place
from ancestral.trace.params.module_params import Slot, slots_of
from ancestral.trace.params.store import open_store
from ancestral.trace.program.checks import check_name
from ancestral.trace.program.primitives import settled
from ancestral.trace.recording.message import Message, apply_stack

M = TypeVar("M", bound=nn.Module)


def module(name: str, nn_module: M) -> M:
    """Name a network, whose parameters the open store keeps as ``{name}.{parameter}``.

    Each parameter is asked for as `an.param` asks, so that handlers may lift or substitute it: what
    is returned then is a twin that computes with the new values and shares all else with the
    network. Calls of the twin have them however `forward` reaches the parameters, its other methods
    where they reach them by attributes: by modules, methods, lists, tuples, sets and dictionaries.

    The store keeps the network as a whole, its buffers too. A store that has one of this name
    already, since it was copied or since the program makes a new one every time, returns that one.
    Use what is returned.

    Args:
        name: the name of the network in the state of the store.
        nn_module: the network.

    Raises:
        SiteError: if no store is open, if `nn_module` is no module, or if the parameters are not
            those that the store has of this name.
    """
    where = place()
    check_name(name, where)
    if not isinstance(nn_module, nn.Module):
        raise SiteError(
            f"module {name!r} ({where.location}): it is a {type(nn_module).__name__}; expected a "
            "torch.nn.Module"
        )
    _check_made(name, nn_module, where)
    held = _held(name, nn_module, where)
    values: dict[nn.Parameter, Tensor] = {}
    for slot in slots_of(name, held):
        if slot.leaf not in values:
            value = _asked(slot, where)
            values[slot.leaf] = value  # the leaf that is there after the store has taken it
    other = {leaf: value for leaf, value in values.items() if value is not leaf}
    if not other:
        return held
    if isinstance(held, torch.jit.ScriptModule):
        raise SiteError(
            f"module {name!r} ({where.location}): its parameters are given other values, with "
            "which a scripted module cannot compute; name the module that it was made from"
        )
    return twin(held, other)


def _check_made(name: str, fresh: nn.Module, where: Place) -> None:
    unmade = [slot.name for slot in slots_of(name, fresh) if is_lazy(slot.leaf)]
    if unmade:
        raise SiteError(
            f"module {name!r} ({where.location}): its parameters {', '.join(map(repr, unmade))} "
            "have no shape yet; call it once before it is named, so that it makes them"
        )


def _asked(slot: Slot, where: Place) -> Tensor:
    options = {"init": None, "constraint": constraints.real, "slot": slot}
    answered = apply_stack(Message("param", slot.name, where, options=options), settled)
    assert answered.value is not None
    return answered.value


def _held(name: str, fresh: M, where: Place) -> M:
    """Return the module that the store has of this name, else the fresh one."""
    store = open_store()
    held = None if store is None else store.module_of(name)
    if held is None or held is fresh:
        return fresh
    found, expected = _shapes(name, fresh), _shapes(name, held)
    if type(held) is not type(fresh) or found != expected:
        raise SiteError(
            f"module {name!r} ({where.location}): it is a {type(fresh).__name__} with the "
            f"parameters {found}; expected a {type(held).__name__} with {expected}, which the "
            "store has of this name; give each module its own name"
        )
    return held


def _shapes(name: str, module: nn.Module) -> dict[str, list[int]]:
    return {slot.name: list(slot.leaf.shape) for slot in slots_of(name, module)}


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
    calling = nn.Module()
    calling.module = module  # which has the values too while it calls
    calling.forward = found.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        return torch.func.functional_call(calling, named, args, kwargs)

    vars(found)["forward"] = forward
    return found


def _replaced(value: Any, memo: dict[int, Any]) -> Any:
    """Return an attribute with what `memo` has in the place of all that it reaches."""
    if id(value) in memo:
        return memo[id(value)]
    kind = type(value)
    parts: list[Any] = []
    if kind in (dict, OrderedDict):
        parts = list(value.values())
    elif kind in (list, tuple, set):
        parts = list(value)
    elif kind is MethodType:
        parts = [value.__self__]
    elif kind is functools.partial:
        parts = [value.func, value.args, value.keywords]
    new = [_replaced(part, memo) for part in parts]
    if all(a is b for a, b in zip(parts, new, strict=True)):
        return value
    if kind in (dict, OrderedDict):
        return kind(zip(value, new, strict=True))
    if kind is MethodType:
        return MethodType(value.__func__, *new)
    if kind is functools.partial:
        return functools.partial(new[0], *new[1], **new[2])
    return kind(new)
