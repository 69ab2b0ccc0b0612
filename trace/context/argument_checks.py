"""Arguments of handlers and queries: checks, and short texts for messages.

>>> import torch
>>> short({"z": torch.zeros(2, 3)}), kind_of(3)
("{'z': tensor[2, 3]}", 'an int')
"""

import copy
import functools
import inspect
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.distributions.constraints import Constraint

from ancestral.provenance.tensor.tensor import alias, provenance, raw
from ancestral.trace.context.reachable import reachable
from ancestral.trace.context.switch import unmet


class _Short(reprlib.Repr):
    """Shows tensors by their shapes, functions by their names, and long things in part."""

    def __init__(self) -> None:
        super().__init__()
        self.maxdict = self.maxtuple = self.maxlist = 4
        self.maxother = 120

    def repr1(self, x: Any, level: int) -> str:
        """Show a thing."""
        if isinstance(x, Tensor):
            return f"tensor{list(raw(Tensor.size, x))}"
        if isinstance(x, Constraint):
            return super().repr1(_with_texts(x), level)
        if isinstance(x, torch.Generator):
            return str(x.initial_seed())
        if inspect.isroutine(x) or isinstance(x, type):
            return str(getattr(x, "__name__", x))
        is_ours = type(x).__module__.startswith("ancestral.")
        if not is_ours and any(provenance(tensor) is not None for tensor in reachable(x)):
            return kind_of(x)  # its own text might let a value out
        return super().repr1(x, level)

    def repr_int(self, x: int, level: int) -> str:
        """Show an integer, one that Python does not turn into a text by its size."""
        return f"an int of {x.bit_length()} bits" if x.bit_length() > 1024 else repr(x)


_short = _Short()


def short(value: object) -> str:
    """Return a thing in few words, for a message: no value of a tensor leaves tensor land."""
    return _short.repr(value)


def first_of(values: Tensor) -> str:
    """Return the first element of a tensor as a text; that it is read decides nothing."""
    with unmet():
        plain = alias(values).detach().flatten()[:1]
        return "unknown" if plain.is_meta or not len(plain) else repr(raw(Tensor.item, plain))


class _Text:
    """What has its own text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _with_texts(constraint: Constraint) -> Constraint:
    """Return a constraint that shows like another, whose bounds may be tensors."""
    twin = copy.copy(constraint)
    for name, item in vars(constraint).items():
        if isinstance(item, Tensor):
            is_one = raw(Tensor.numel, item) == 1
            vars(twin)[name] = _Text(first_of(item) if is_one else short(item))
        elif isinstance(item, Constraint):
            vars(twin)[name] = _with_texts(item)
    return twin


def kind_of(value: object) -> str:
    """Return what a message calls a value of a wrong type."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def explained(init: Callable[..., None]) -> Callable[..., None]:
    """Return the constructor of a handler that tells how it is called where it cannot be so."""
    signature = inspect.signature(init)
    shown = signature.replace(
        parameters=[p.replace(annotation=p.empty) for p in [*signature.parameters.values()][1:]],
        return_annotation=signature.empty,
    )

    @functools.wraps(init)
    def explaining(self: Any, /, *args: Any, **kwargs: Any) -> None:
        try:
            init(self, *args, **kwargs)
        except TypeError as error:
            problem = _misfit(signature, self, *args, **kwargs)
            if problem is None:
                raise
            verb = type(self).__name__
            raise TypeError(
                f"{verb}{shown}: {problem}; a function comes afterwards, as in {verb}(...)(model)"
            ) from error

    return explaining


def _misfit(signature: inspect.Signature, *args: Any, **kwargs: Any) -> str | None:
    """Return what is wrong with a call for its signature, None if nothing is."""
    odd = [f"{name}=" for name in kwargs if name not in signature.parameters]
    if odd and all(p.kind is not p.VAR_KEYWORD for p in signature.parameters.values()):
        return f"it has no argument {', '.join(odd)}"
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return None


def check_count(name: str, count: object, least: int = 1, most: int | None = None) -> None:
    """Raise unless a count is an int, no truth value, of a range.

    Raises:
        ValueError: if it is none.
    """
    is_int = isinstance(count, int) and not isinstance(count, bool)
    if is_int and least <= count and (most is None or count <= most):  # type: ignore[operator]
        return
    span = f"from {least} to {most}" if most is not None else f"greater than {least - 1}"
    raise ValueError(f"{name} must be an int {span}, not {short(count)}")


def check_function(verb: str, function: object) -> None:
    """Raise unless a handler can stand around a function.

    Raises:
        TypeError: if it is none, or one whose body runs after the call.
    """
    if not callable(function):
        raise TypeError(f"{verb}(...) stands around a function, not {kind_of(function)}")
    runs_later = (
        inspect.isgeneratorfunction(function)
        or inspect.iscoroutinefunction(function)
        or inspect.isasyncgenfunction(function)
    )
    if runs_later:
        raise TypeError(
            f"{verb}(...) cannot stand around {short(function)}, which is a generator or a "
            f"coroutine: its body runs after the call; open `with {verb}(...):` within it"
        )


def leaves_given(inputs: Iterable[Tensor] | Tensor | None) -> tuple[Tensor, ...] | None:
    """Return what gradients are accumulated into, None if it is all leaves.

    Raises:
        ValueError: if it is nothing, or something that takes no gradient.
    """
    if inputs is None:
        return None
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    wrong = [x for x in given if not getattr(x, "requires_grad", isinstance(x, GradientEdge))]
    if wrong or not given:
        found = f"{kind_of(wrong[0])} that takes no gradient" if wrong else "nothing"
        raise ValueError(
            f"inputs has {found} in it; expected tensors with requires_grad=True, such as "
            "model.parameters()"
        )
    return given
