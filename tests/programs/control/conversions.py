"""Values that leave as something else, and tensors that are made of it again."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import copy
import io
import json
import math
import pickle
import warnings

import numpy as np
import torch
from torch import Tensor

from programs.control.register import TABLE, coin, coins, control, num, roll, rows

rows(
    control(escapes=None, decides=False),
    {
        "a_tensor_of_a_draw": lambda theta: (
            ((torch.tensor([coin(theta[0]), 1.0]) - 0.4) ** 2).sum() * theta[1]
        ),
        "a_constructor_that_shares": lambda theta: torch.DoubleTensor(coin(theta)) @ theta,
        "a_pickle": lambda theta: pickle.loads(pickle.dumps(coin(theta[0]))) * theta[1],
    },
)


@control()
def a_tensor_of_an_item(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    again = torch.tensor(z.item(), dtype=torch.float64)
    return again * theta[1] + 0.3 * again


rows(
    control(escapes=False),
    {
        "as_tensor": lambda theta: (torch.as_tensor(coin(theta[0])) - theta[1]) ** 2,
        "a_deep_copy": lambda theta: (
            copy.deepcopy([coin(theta[0])])[0] * theta[1] + copy.copy(coin(theta[1]))
        ),
    },
)


@control(escapes=None)
def as_tensor_of_a_list(theta: Tensor) -> Tensor:
    z = coin(theta)
    return (torch.as_tensor([z[0], z[1]], dtype=torch.float64) * theta).sum()


@control(escapes=None)
def a_constructor(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    return torch.Tensor([z, 0.5]).double().prod() + theta[1] * torch.DoubleTensor([z])[0]


rows(
    control(),
    {
        "a_number_times_a_term": lambda theta: coin(theta[0]).item() * theta[1].exp(),
        "a_mathematical_function": lambda theta: (
            theta[1] * math.exp(coin(theta[0])) - math.floor(coin(theta[1]) + 0.5)
        ),
        "a_hexadecimal": lambda theta: num(float(int(hex(roll(theta)), 16))) * theta[1].cos(),
        "numpy_of_a_draw": lambda theta: torch.from_numpy(coin(theta).numpy()).sum() * theta[1],
        "numpy_arithmetic": lambda theta: (
            torch.as_tensor((coins(theta, 2).numpy() ** 2 + 0.3).mean(0)) @ theta
        ),
        "numpy_where": lambda theta: (
            torch.from_numpy(np.where(coin(theta).numpy() > 0, 1.4, -0.2)) @ theta
        ),
        "a_format_parsed_back": lambda theta: theta[1] * float(f"{coin(theta[0])}") + num(0.2),
        "a_format_with_digits": lambda theta: theta[1] * float(f"{coin(theta[0]):.3f}"),
        "a_text": lambda theta: theta[1] * (0.3 if "1." in str(coin(theta[0])) else 1.9),
        "dlpack": lambda theta: torch.utils.dlpack.from_dlpack(coin(theta)) @ theta,
        "a_repeated_list": lambda theta: (
            torch.ones(len([0] * (roll(theta) + 1)), dtype=torch.float64).sum() * theta[1]
        ),
        "contained": lambda theta: theta[1] * (1.3 if 1.0 in coins(theta[0], 2) else 0.1),
        "equal": lambda theta: (
            theta[1]
            * (1.3 if torch.equal(coin(theta), torch.ones(2, dtype=torch.float64)) else 0.1)
        ),
        "is_nonzero": lambda theta: theta[1] * (1.3 if torch.is_nonzero(coin(theta[0])) else 0.1),
        "a_tensor_of_a_list": lambda theta: (
            (torch.tensor(coins(theta, 2).tolist(), dtype=torch.float64).sum(1) - theta)
            .square()
            .sum()
        ),
        "numpy_by_asarray": lambda theta: (
            theta[1] * float(np.asarray(coin(theta)).dot([0.4, -1.2]))
        ),
        "numpy_argmax": lambda theta: (
            TABLE[int(np.argmax(coins(theta, 1)[0].numpy() * [1.0, 2.0]))] * theta[1] + theta[0]
        ),
        "numpy_bytes": lambda theta: (
            torch.frombuffer(bytearray(coin(theta).numpy().tobytes()), dtype=torch.float64) @ theta
        ),
        "json_and_back": lambda theta: (
            theta @ torch.tensor(json.loads(json.dumps(coin(theta).tolist())), dtype=torch.float64)
        ),
        "an_untyped_storage": lambda theta: (
            torch.empty(0, dtype=torch.float64).set_(coin(theta).untyped_storage()) @ theta
        ),
        "complex_and_index": lambda theta: (
            theta[1] * (complex(coin(theta[0])) * 1j).imag + theta[0]
        ),
    },
)


@control()
def arithmetic_on_numbers(theta: Tensor) -> Tensor:
    z = coin(theta)
    total = float(z[0]) * 0.7 - float(z[1]) ** 2 / 3
    return theta[1] * total + num(total)


@control()
def divmod_and_rounding(theta: Tensor) -> Tensor:
    n = roll(theta)
    quotient, rest = divmod(int(n), 2)
    return theta[1] ** (1 + rest) + quotient


@control()
def integer_arithmetic(theta: Tensor) -> Tensor:
    n = (roll(theta) * 5 + 3) // 2 % 4
    return theta[1] * (int(n) & 3) + num(0.1) * (int(n) << 1)


@control(escapes=None)
def a_ufunc(theta: Tensor) -> Tensor:
    with warnings.catch_warnings(action="ignore"):  # of the way torch answers numpy
        return torch.as_tensor(np.exp(coin(theta))).sum() * theta[1]


@control()
def numpy_that_was_there_before(theta: Tensor) -> Tensor:
    """The array is taken of plain zeros, which a draw is written into later."""
    buffer = torch.zeros(2, dtype=torch.float64)
    seen = buffer.numpy()
    buffer.copy_(coin(theta))
    return theta[1] * (1.5 if seen[0] > 0 else 0.2) + float(seen[1])


@control()
def a_tensor_of_numpy_that_was_there_before(theta: Tensor) -> Tensor:
    buffer = torch.zeros(2, dtype=torch.float64)
    alias = torch.from_numpy(buffer.numpy())
    buffer[0] = coin(theta[0])
    return alias.sum() * theta[1] + 0.1 * coin(theta[1])


@control()
def a_tensor_on_an_array(theta: Tensor) -> Tensor:
    array = np.zeros(2)
    torch.from_numpy(array)[1] = coin(theta[0])
    return theta[1] * float(array[1] + 0.4)


@control()
def a_percent_format(theta: Tensor) -> Tensor:
    return theta[1] * float("%.2f" % coin(theta[0]))  # noqa: UP031 (what is tested)


@control()
def a_representation(theta: Tensor) -> Tensor:
    z = coin(theta)
    inside = repr(z).partition("[")[2].partition("]")[0]
    numbers = [float(part) for part in inside.split(",")]
    return theta @ torch.tensor(numbers, dtype=torch.float64)


@control()
def a_print(theta: Tensor) -> Tensor:
    text = io.StringIO()
    print(coin(theta[0]), file=text)
    return theta[1] * ("1." in text.getvalue()) + theta[0]


@control(decides=False)
def a_log_line(theta: Tensor) -> Tensor:
    z, w = coin(theta[0]), coin(theta[1])
    io.StringIO().write(f"{float(z):.2f}")
    return (z - 0.4) ** 2 + 2 * w


@control(escapes=None, decides=False)
def a_saved_tensor(theta: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save({"z": coin(theta[0])}, file)
    file.seek(0)
    return torch.load(file, weights_only=False)["z"] * theta[1]


@control()
def a_storage(theta: Tensor) -> Tensor:
    z = coin(theta)
    with warnings.catch_warnings(action="ignore"):  # of its age
        return theta[1] * z.storage()[0] + theta[0]


@control()
def a_function_applied_to_each(theta: Tensor) -> Tensor:
    seen: list[float] = []
    coin(theta).clone().apply_(lambda v: seen.append(v) or v)  # type: ignore[func-returns-value]
    return theta[0] * seen[0] - theta[1] * seen[1]


@control(escapes=None, decides=False)
def a_gradient_of_the_draw(theta: Tensor) -> Tensor:
    x = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(coin(theta[0]) * x**2, x)
    return slope * theta[1]


@control()
def allclose(theta: Tensor) -> Tensor:
    z = coin(theta)
    return theta[1] * (1.3 if z.allclose(z.new_zeros(2)) else 0.1)


@control()
def allclose_to_a_draw(theta: Tensor) -> Tensor:
    """The draw is the second operand."""
    zeros = torch.zeros(2, dtype=torch.float64)
    return theta[1] * (1.3 if torch.allclose(zeros, coin(theta)) else 0.1)


@control()
def an_assertion_of_torch(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    try:
        torch._assert(z < 1, "heads")  # pyright: ignore[reportPrivateUsage]
    except AssertionError:
        return theta[1] * 2
    return theta[1] + 0.3


@control()
def an_assertion_of_closeness(theta: Tensor) -> Tensor:
    try:
        torch.testing.assert_close(coin(theta[0]), num(1.0))
    except AssertionError:
        return theta[1] * 2
    return theta[1] + 0.3
