"""Parameters of a program: the leaves that its loss is differentiated by, and their names."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from ancestral.trace.context.argument_checks import kind_of
from ancestral.trace.nodes.autograd_graph import nodes_of

Parameters = Mapping[str, Tensor] | Iterable[Tensor] | None


def parameters_of(
    program: Callable[..., Any], args: tuple[Any, ...], given: Parameters, expected: Tensor
) -> dict[str, Tensor]:
    """Return the parameters by name: those that are given, else all leaves of an expected loss.

    Raises:
        TypeError: if one is no tensor.
        ValueError: if one takes no gradient, or there is none.
    """
    names = {id(tensor): name for name, tensor in reversed([*_named(program, args)])}
    if isinstance(given, Mapping):
        found = dict(given)
    else:
        leaves = _leaves(expected) if given is None else list(given)
        found = {}
        for number, leaf in enumerate(leaves):
            name = names.get(id(leaf), f"parameter {number}")
            found[name if name not in found else f"{name} ({number})"] = leaf
    for name, leaf in found.items():
        if not isinstance(leaf, Tensor):
            raise TypeError(f"parameters: {name!r} is {kind_of(leaf)}; expected a torch.Tensor")
        if not (leaf.requires_grad and leaf.is_leaf):
            raise ValueError(f"parameters: {name!r} is no leaf with requires_grad=True")
    if not found:
        raise ValueError(
            "the expected loss has no gradient: no tensor with requires_grad=True reaches it"
        )
    return found


def _leaves(expected: Tensor) -> list[Tensor]:
    if expected.requires_grad and expected.is_leaf:
        return [expected]
    return [node.variable for node in nodes_of([expected]) if hasattr(node, "variable")]


def _named(program: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that a program is seen to know, with a name: the best names first."""
    if isinstance(program, partial):
        for name, item in program.keywords.items():
            yield from _within(name, item)
        program, args = program.func, (*program.args, *args)
    owner = getattr(program, "__self__", None)
    for module in (program, owner, *args):
        if isinstance(module, nn.Module):
            yield from module.named_parameters()
    for name, item in _arguments(program, args):
        yield from _within(name, item)
    if inspect.isfunction(program) or inspect.ismethod(program):
        known = inspect.getclosurevars(program)
        for name, item in {**known.nonlocals, **known.globals}.items():
            yield from _within(name, item)


def _arguments(program: Any, args: tuple[Any, ...]) -> Iterator[tuple[str, Any]]:
    try:
        yield from inspect.signature(program).bind(*args).arguments.items()
    except (TypeError, ValueError):
        yield from ((f"argument {number}", item) for number, item in enumerate(args))


def _within(name: str, item: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(item, Tensor):
        yield name, item
    elif isinstance(item, nn.Module):
        for inner, parameter in item.named_parameters():
            yield f"{name}.{inner}", parameter
    elif isinstance(item, (list, tuple)):
        for number, each in enumerate(item):
            yield from _within(f"{name}[{number}]", each)
    elif isinstance(item, dict):
        for key, each in item.items():
            yield from _within(f"{name}[{key!r}]", each)
