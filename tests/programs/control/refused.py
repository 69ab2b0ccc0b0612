"""Programs that cannot be followed: on some path, or on all, the library raises and says why."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return, attr-defined, misc, no-untyped-call"

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.masked
import torch.nested
from torch import Tensor
from torch.distributions import Bernoulli

from oracles import Program
from programs.control.memory import Scaled
from programs.control.register import TABLE, coin, num, rows

REFUSED: dict[str, Program] = {}
"""By name; beside each, as beside the others, another coin is drawn."""


def refused(alone: Program) -> Program:
    """Register a program."""

    @functools.wraps(alone)
    def program(theta: Tensor) -> Tensor:
        beside = 0.3 * coin(theta[1])
        with warnings.catch_warnings(action="ignore"):  # of prototypes
            return alone(theta) + beside

    REFUSED[alone.__name__] = program
    return alone


@refused
def an_index_that_is_too_large(theta: Tensor) -> Tensor:
    other = 0.3 * coin(theta[1])
    try:
        cost = TABLE[:1][coin(theta[0]).long()] * theta[1]
    except IndexError:
        cost = theta[1] * 3
    return cost + other


@refused
def a_matrix_that_is_singular(theta: Tensor) -> Tensor:
    try:
        return torch.linalg.inv(coin(theta[0]).reshape(1, 1)).sum() + theta[1]
    except RuntimeError:
        return theta[1] * 3


@refused
def a_parameter_that_is_too_large(theta: Tensor) -> Tensor:
    try:
        return Bernoulli(coin(theta[0]) * 2, validate_args=True).mean * theta[1]
    except ValueError:
        return num(1.4) + theta[1]


def function_of(theta: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that depends on a draw."""
    z = coin(theta[0])
    return lambda x: (x * (z + 0.4)).sum()


@refused
def vmap(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    return torch.vmap(lambda x: (x * 1.0).mul_(z + 0.4))(theta).sum()


rows(
    refused,
    {
        "a_gradient_of_func": lambda theta: torch.func.grad(function_of(theta))(TABLE[:2]) @ theta,
        "a_product_with_the_jacobian": lambda theta: (
            torch.func.jvp(function_of(theta), (TABLE[:2],), (TABLE[2:],))[1] * theta[1]
        ),
        "a_functionalization": lambda theta: torch.func.functionalize(function_of(theta))(theta),
        "a_functionalization_of_a_draw": lambda theta: (
            torch.func.functionalize(torch.exp)(coin(theta)) @ theta
        ),
        "a_draw_in_a_custom_function": lambda theta: _Drawn.apply(theta) @ theta,
        "a_meeting_with_a_careless_class": lambda theta: (
            (Careless(TABLE[:2]) * coin(theta)).as_subclass(Tensor).sum() * theta[1]
        ),
        "a_careless_class_that_is_met": lambda theta: (
            torch.stack([coin(theta), Careless(TABLE[:2])]).as_subclass(Tensor).sum() * theta[1]
        ),
        "a_view_as_a_careless_class": lambda theta: (
            (coin(theta).as_subclass(Careless) * 2).as_subclass(Tensor).sum() * theta[1]
        ),
        "a_traced_function": lambda theta: torch.jit.trace(
            function_of(theta), (TABLE[:2],), check_trace=False
        )(theta),
        "a_traced_module": lambda theta: torch.jit.trace_module(
            _Summed(coin(theta[0])), {"forward": TABLE[:2]}, check_trace=False
        )(theta),
        "a_nested_tensor": lambda theta: (
            torch.nested.nested_tensor([coin(theta), TABLE[:1]]).to_padded_tensor(0.0).sum()
            * theta[1]
        ),
    },
)


@refused
def a_product_with_the_transposed_jacobian(theta: Tensor) -> Tensor:
    _, pull = torch.func.vjp(function_of(theta), TABLE[:2])
    return pull(num(1.0))[0] @ theta


@refused
def a_linearization(theta: Tensor) -> Tensor:
    _, push = torch.func.linearize(function_of(theta), TABLE[:2])
    return push(TABLE[2:]) * theta[1]


class _Drawn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return coin(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 0


class _Summed(torch.nn.Module):
    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z

    def forward(self, x: Tensor) -> Tensor:
        return (x * (self.z + 0.4)).sum()


@refused
def a_nested_tensor_of_tensors(theta: Tensor) -> Tensor:
    nested = torch.nested.as_nested_tensor([coin(theta), TABLE[:1]])
    return nested.to_padded_tensor(0.0).sum() * theta[1]


@refused
def a_jagged_tensor(theta: Tensor) -> Tensor:
    offsets = torch.tensor([0, 1, 2])
    nested = torch.nested.nested_tensor_from_jagged(coin(theta), offsets)
    return nested.to_padded_tensor(0.0).sum() * theta[1]


@refused
def a_narrowed_tensor(theta: Tensor) -> Tensor:
    ends = torch.tensor([1, 2])
    nested = torch.nested.narrow(
        coin(theta).expand(2, 2).contiguous(), 1, torch.tensor([0, 0]), ends, layout=torch.jagged
    )
    return nested.values().sum() * theta[1]


@refused
def a_jagged_selection(theta: Tensor) -> Tensor:
    nested = torch.nested.masked_select(TABLE.reshape(2, 2), coin(theta).expand(2, 2) > 0)
    return nested.values().sum() * theta[1]


@refused
def a_meeting_with_a_jagged_tensor(theta: Tensor) -> Tensor:
    offsets = torch.tensor([0, 1, 2])
    nested = torch.nested.nested_tensor_from_jagged(TABLE[:2], offsets)
    return (nested * coin(theta[0])).values().sum() * theta[1]


@refused
def a_masked_tensor(theta: Tensor) -> Tensor:
    z = coin(theta)
    masked = torch.masked.masked_tensor(z, torch.tensor([True, False]))
    return masked.sum().get_data() * theta[1]


@refused
def a_meeting_with_a_masked_tensor(theta: Tensor) -> Tensor:
    masked = torch.masked.masked_tensor(TABLE[:2], torch.tensor([True, False]))
    return (masked * coin(theta)).sum().get_data() * theta[1]


class Careless(Tensor):
    """A class of another library, which computes without overrides."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class Wrapping(Tensor):
    """A class of another library, which computes below the overrides."""

    held: Tensor

    @staticmethod
    def __new__(cls: type, inner: Tensor) -> "Wrapping":
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.held = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        given = [item.held if isinstance(item, Wrapping) else item for item in args]
        return Wrapping(func(*given, **(kwargs or {})))


@refused
def a_careless_class_that_is_defined_late(theta: Tensor) -> Tensor:
    class Late(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kw: Any = None) -> Any:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kw or {}))

    return (Late(TABLE[:2]) * coin(theta)).as_subclass(Tensor).sum() * theta[1]


@refused
def a_meeting_with_a_class_that_wraps(theta: Tensor) -> Tensor:
    made: Any = Wrapping(TABLE[:2]) * coin(theta)
    return made.held.sum() * theta[1]


@refused
def a_script_with_a_draw_in_its_buffer_is_frozen(theta: Tensor) -> Tensor:
    module = torch.jit.script(Scaled()).eval()
    module.scale.copy_(coin(theta[0]).expand(1))
    frozen = torch.jit.freeze(module)
    return frozen(TABLE[:1]).sum() * theta[1]
