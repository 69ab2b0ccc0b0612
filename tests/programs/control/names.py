"""One program for each of the names that let a value out, or write in place, and no other has."""

# torch.distributions is not annotated, and a tensor is no number to mypy.
# mypy: disable-error-code="no-any-return, attr-defined, call-overload, no-untyped-call"

import functools
import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from programs.control.register import TABLE, coin, coins, control, num, roll, rows


def _select(z: Tensor, table: Tensor) -> Tensor:
    return table * z + 0.3


class _Chosen(torch.nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z * 2 + 0.3


@functools.cache
def _scripted() -> Any:
    with warnings.catch_warnings(action="ignore"):  # of its age
        return torch.jit.script(_select)


@functools.cache
def _script_module() -> Any:
    with warnings.catch_warnings(action="ignore"):  # of its age
        return torch.jit.script(_Chosen())


rows(
    control(decides=False),
    {
        "nonzero_static": lambda theta: (
            (torch.nonzero_static(coin(theta), size=2, fill_value=-1) + 1).sum() * theta[1]
        ),
        "a_histogram": lambda theta: (
            torch.histc(coins(theta[0], 2), bins=2, min=0, max=1)[0] * theta[1]
        ),
    },
)


@control()
def a_typed_storage(theta: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of its age
        return theta[1] * coin(theta)._typed_storage()[0] + theta[0]


@control()
def an_untyped_storage_read(theta: Tensor) -> Tensor:
    last = coin(theta[0]).untyped_storage()[7]  # the sign and the exponent
    return theta[1] * (1.3 if last else 0.2)


rows(
    control(),
    {
        "an_equality_method": lambda theta: (
            theta[1] * (1.3 if coin(theta).equal(torch.zeros(2, dtype=torch.float64)) else 0.2)
        ),
        "unique_consecutive_of_a_method": lambda theta: (
            theta[1] * coins(theta[0], 3).unique_consecutive().numel()
        ),
        "an_array_by_its_protocol": lambda theta: theta[1] * float(coin(theta).__array__()[0]),
        "a_symbolic_float": lambda theta: theta[1] * torch.sym_float(coin(theta[0])),
        "a_symbolic_integer": lambda theta: theta[1] * torch.sym_int(coin(theta[0])),
        "a_symbolic_negation": lambda theta: (
            theta[1] * (1.5 if torch.sym_not(coin(theta[0]) > 0) else 0.3)
        ),
        "a_symbolic_root": lambda theta: theta[1] * torch._sym_sqrt(coin(theta[0])),
    },
)


@control(escapes=None, decides=False)
def an_array_wrapped(theta: Tensor) -> Tensor:
    z = coin(theta)
    return z.__array_wrap__(TABLE[:2].numpy()).sum() * theta[1] + z.sum() * theta[0]


def seen(write: Callable[[Tensor, Tensor], object], operand: Tensor) -> Tensor:
    """Return whole numbers through a view that was there before they were written into."""
    buffer = torch.tensor([5, 6])
    before = buffer.view(2)
    write(buffer, operand)
    return before.double()


rows(
    control(escapes=False),
    {
        "iadd": lambda theta: operator.iadd(TABLE[:2].clone(), coin(theta)) @ theta,
        "isub": lambda theta: operator.isub(TABLE[:2].clone(), coin(theta)) @ theta,
        "imul": lambda theta: operator.imul(TABLE[:2].clone(), coin(theta)) @ theta,
        "itruediv": lambda theta: operator.itruediv(TABLE[:2].clone(), coin(theta) + 1) @ theta,
        "idiv": lambda theta: TABLE[:2].clone().__idiv__(coin(theta) + 1) @ theta,
        "ifloordiv": lambda theta: operator.ifloordiv(3 * TABLE[:2], coin(theta) + 1) @ theta,
        "imod": lambda theta: operator.imod(3 * TABLE[:2], coin(theta) + 1) @ theta,
        "ipow": lambda theta: operator.ipow(TABLE[2:].clone(), coin(theta) + 1) @ theta,
        "iand": lambda theta: seen(operator.iand, coin(theta).long() + 1) @ theta,
        "ior": lambda theta: seen(operator.ior, coin(theta).long() + 1) @ theta,
        "ixor": lambda theta: seen(operator.ixor, coin(theta).long() + 1) @ theta,
        "ilshift": lambda theta: seen(operator.ilshift, coin(theta).long()) @ theta,
        "irshift": lambda theta: seen(operator.irshift, coin(theta).long()) @ theta,
    },
)


rows(
    control(escapes=None, decides=False),
    {
        "a_logarithmic_range": lambda theta: (
            torch.logspace(0, coin(theta[0]), 3).double()[1] * theta[1]
        ),
        "a_linear_range": lambda theta: (
            torch.linspace(0, coin(theta[0]) + 1, 3).double()[1] * theta[1]
        ),
        "a_range_with_a_start": lambda theta: (
            torch.arange(coin(theta[0]), 3).double().sum() * theta[1]
        ),
        "a_new_tensor": lambda theta: TABLE.new_tensor([coin(theta[0]), 0.5]) @ theta,
        "a_scripted_function": lambda theta: _scripted()(coin(theta), TABLE[:2]) @ theta,
        "a_scripted_method": lambda theta: _script_module()(coin(theta)) @ theta,
        "a_symbolic_sum": lambda theta: theta[1] * torch.sym_sum([coin(theta[0]), 1]),
    },
)


@control(escapes=None, decides=False)
def a_sparse_tensor_of_places(theta: Tensor) -> Tensor:
    places = torch.tensor([[0, 1]])
    return torch.sparse_coo_tensor(places, coin(theta), check_invariants=True).to_dense() @ theta


@control()
def a_string_of_digits(theta: Tensor) -> Tensor:
    return theta[1] * int("%d" % roll(theta)) + num(0.3)  # noqa: UP031 (what is tested)


@control(escapes=False)
def an_assertion_on_the_device(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    torch._assert_async(z + 1)
    return theta[1] * z


@control()
def the_rank_of_a_system(theta: Tensor) -> Tensor:
    """With it, the residuals of the solution are there or not."""
    z = coin(theta[0])
    ones = torch.ones(3, 1, dtype=torch.float64)
    system = torch.cat([ones, ones * z + torch.tensor([[0.0], [1.0], [2.0]]) * z], 1)
    solution = torch.linalg.lstsq(system, TABLE[:3, None], driver="gelsd")
    return theta[1] * (0.3 + len(solution.residuals))


def noted(met: list[float], number: float) -> float:
    """Note a number, and return it."""
    met.append(number)
    return number


@control()
def a_function_of_two_mapped(theta: Tensor) -> Tensor:
    met: list[float] = []
    z = coin(theta)
    torch.zeros_like(z).map_(z, lambda _, number: noted(met, number))
    return theta @ torch.tensor(met, dtype=torch.float64)


@control()
def a_function_of_three_mapped(theta: Tensor) -> Tensor:
    met: list[float] = []
    z = coin(theta)
    torch.zeros_like(z).map2_(z, z, lambda _, number, __: noted(met, number))
    return theta @ torch.tensor(met, dtype=torch.float64)
