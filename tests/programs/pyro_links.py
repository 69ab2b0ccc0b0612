"""Ways in which a number of a Pyro program depends on a draw of nought or one.

Those of tensors, and those that tensors do not show: what Python reads and branches on, what it
writes in place, indexes by, and puts into the structures of Python.
"""

import copy
import io
import itertools
import math
import operator
import pickle
import random
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pyro.ops.special
import torch
from torch import Tensor, nn

import ancestral as an

Link = Callable[[Tensor], Any]
LINKS: dict[str, Link] = {}
REFUSED: dict[str, type[Exception]] = {
    "state_dict": an.errors.WriteIntoParameterError,
    "assertion_caught": an.errors.CaughtError,
}
"""The links of which no gradient is given, and the error."""

T = torch.tensor
TABLE = T([0.2, 1.3], dtype=torch.float64)
ROWS = T([[0.2, 1.3], [-0.7, 0.4]], dtype=torch.float64)


def link(function: Link) -> Link:
    LINKS[function.__name__] = function
    return function


# Of one expression.
LINKS |= {
    "arithmetic": lambda z: 0.2 + 1.1 * z,
    "where": lambda z: torch.where(z > 0, T(1.3), T(0.2)),
    "comparison": lambda z: (z > 0.5).double(),
    "item": lambda z: z.item() * 1.1,
    "float": lambda z: float(z) + 0.2,
    "int": lambda z: [0.2, 1.3][int(z)],
    "conditional": lambda z: 1.3 if z > 0 else 0.2,
    "conditional_on_item": lambda z: 1.3 if z.item() > 0 else 0.2,
    "conditional_on_bool": lambda z: 1.3 if bool(z) else 0.2,
    "and": lambda z: (z > 0 and 1.3) or 0.2,
    "not": lambda z: 0.2 if not z else 1.3,
    "list_index": lambda z: [0.2, 1.3][z.long()],
    "tuple_index": lambda z: (T(0.2), T(1.3))[z.int()],
    "dict_key": lambda z: {0.0: 0.2, 1.0: 1.3}[z.item()],
    "tensor_index": lambda z: TABLE[z.long()],
    "tensor_index_of_int": lambda z: TABLE[int(z)],
    "row_index": lambda z: ROWS[z.long()].sum(),
    "ellipsis_index": lambda z: ROWS[..., z.long()].sum(),
    "gather": lambda z: TABLE.gather(0, z.long()[None])[0],
    "take": lambda z: TABLE.take(z.long()),
    "index_select": lambda z: TABLE.index_select(0, z.long()[None]).sum(),
    "embedding": lambda z: nn.functional.embedding(z.long(), ROWS).sum(),
    "one_hot": lambda z: (nn.functional.one_hot(z.long(), 2) * TABLE).sum(),
    "mask_index": lambda z: TABLE[torch.stack([z > 0, z <= 0])].sum(),
    "masked_select": lambda z: TABLE.masked_select(torch.stack([z > 0, z <= 0])).sum(),
    "masked_fill": lambda z: TABLE.masked_fill(torch.stack([z > 0, z <= 0]), 0.5).sum(),
    "nonzero_shape": lambda z: z.reshape(1).nonzero().shape[0] * 1.1,
    "nonzero_len": lambda z: len(z.reshape(1).nonzero()) * 1.1,
    "unique": lambda z: torch.stack([z, T(0.0)]).unique().numel() * 0.6,
    "arange": lambda z: torch.arange(z.item() + 1).sum() * 0.9,
    "repeat_interleave": lambda z: TABLE.repeat_interleave(z.long() + 1).sum(),
    "zeros_of_size": lambda z: torch.ones(int(z) + 1).sum() * 0.7,
    "slice": lambda z: TABLE[: int(z) + 1].sum(),
    "narrow": lambda z: TABLE.narrow(0, z.long(), 1).sum(),
    "roll": lambda z: TABLE.roll(int(z))[0],
    "new_tensor": lambda z: T(float(z)) * 1.1,
    "tensor_of_list": lambda z: T([z, z + 1.0]).sum(),
    "as_tensor": lambda z: torch.as_tensor(z) * 1.1,
    "stack": lambda z: torch.stack([z, T(0.4)]).sum(),
    "tolist": lambda z: z.reshape(1).tolist()[0] * 1.1,
    "numpy": lambda z: z.numpy().item() * 1.1,
    "numpy_function": lambda z: float(np.exp(z.numpy())),
    "array": lambda z: float(np.asarray(z)) * 1.1,
    "from_numpy": lambda z: torch.from_numpy(np.array([z.item(), 0.3])).sum(),
    "math_function": lambda z: math.exp(z) * 0.7,
    "max_of_python": lambda z: max(0.2, z.item()),
    "max_of_tensors": lambda z: max(T(0.2), z),
    "min_by_key": lambda z: min([0.2, 1.3], key=lambda x: (x - z.item()) ** 2),
    "sorted": lambda z: sorted([z.item(), 0.4])[0],
    "sum_of_python": lambda z: sum([z, z * 0.2]),
    "any_of_python": lambda z: 1.3 if any([z > 0]) else 0.2,
    "membership": lambda z: 1.3 if z in T([1.0]) else 0.2,
    "membership_of_list": lambda z: 1.3 if z.item() in [1.0] else 0.2,
    "equal": lambda z: 1.3 if torch.equal(z, T(1.0)) else 0.2,
    "allclose": lambda z: 1.3 if torch.allclose(z, T(1.0)) else 0.2,
    "text": lambda z: float(f"{z:.1f}") * 1.1,
    "text_of_tensor": lambda z: 1.3 if str(z).startswith("tensor(1") else 0.2,
    "range": lambda z: sum(0.9 for _ in range(int(z) + 1)),
    "itertools": lambda z: sum(itertools.islice([0.3, 0.9], int(z) + 1)),
    "getattr": lambda z: getattr(TABLE, "sum" if z > 0 else "min")(),
    "operator_index": lambda z: [0.2, 1.3][operator.index(z.long())],
    "reduce": lambda z: reduce(operator.add, [z, z, T(0.1)]),
    "round": lambda z: round(z.item() * 0.7) + 0.2,
    "divmod": lambda z: divmod(z.item() * 3, 2)[1] + 0.1,
    "seed": lambda z: random.Random(int(z)).random(),
    "deepcopy": lambda z: copy.deepcopy(z) * 1.1,
    "pickle": lambda z: pickle.loads(pickle.dumps(z)) * 1.1,
    "clone": lambda z: z.clone().mul_(1.1),
    "detach": lambda z: z.detach() * 1.1,
    "data": lambda z: z.data * 1.1,
    "sort": lambda z: torch.stack([z, T(0.4)]).sort().values[0],
    "argmax": lambda z: torch.stack([z, T(0.4)]).argmax().double(),
    "topk": lambda z: torch.stack([z, T(0.4)]).topk(1).values.sum(),
    "cumsum": lambda z: torch.stack([z, T(0.4)]).cumsum(0)[-1],
    "matmul": lambda z: (ROWS @ torch.stack([z, 1 - z])).sum(),
    "einsum": lambda z: torch.einsum("ij,j->", ROWS, torch.stack([z, 1 - z])),
    "softmax": lambda z: torch.stack([z, T(0.4)]).softmax(0)[0],
    "logsumexp": lambda z: torch.stack([z, T(0.4)]).logsumexp(0),
    "linear": lambda z: nn.functional.linear(torch.stack([z, 1 - z]), ROWS).sum(),
    "vmap": lambda z: torch.vmap(lambda x: x * 1.1)(z.reshape(1)).sum(),
    "safe_log": lambda z: pyro.ops.special.safe_log(z + 0.4),
    "checkpoint": lambda z: torch.utils.checkpoint.checkpoint(torch.sin, z, use_reentrant=False),
}


@link
def branch(z: Tensor) -> Any:
    if z > 0:
        return T(1.3)
    return T(0.2)


@link
def nested_branch(z: Tensor) -> Any:
    found = 0.2
    if z.item() > 0.5:
        if z < 2:
            found = 1.3
    else:
        found = -0.4
    return found


@link
def match(z: Tensor) -> Any:
    match int(z):
        case 0:
            return 0.2
        case _:
            return 1.3


@link
def loop_until(z: Tensor) -> Any:
    total, left = 0.2, z.clone()
    while left > 0:
        total, left = total + 1.1, left - 1
    return total


@link
def setitem(z: Tensor) -> Any:
    buffer = torch.zeros(2)
    buffer[0] = z
    return buffer.sum() * 1.1


@link
def setitem_at(z: Tensor) -> Any:
    buffer = torch.zeros(2)
    buffer[z.long()] = 1.3
    return buffer[1]


@link
def setitem_of_a_view(z: Tensor) -> Any:
    buffer = torch.zeros(2, 2)
    buffer[1][0] = z
    return buffer.sum()


@link
def add_in_place(z: Tensor) -> Any:
    buffer = torch.zeros(())
    buffer.add_(z)
    return buffer * 1.1


@link
def augmented(z: Tensor) -> Any:
    buffer = torch.ones(())
    view = buffer.view(1)
    buffer += z
    return view.sum()


@link
def copied_into(z: Tensor) -> Any:
    return torch.zeros(()).copy_(z) * 1.1


@link
def scattered(z: Tensor) -> Any:
    return torch.zeros(2).scatter_(0, z.long()[None], T([1.3]))[1]


@link
def index_added(z: Tensor) -> Any:
    return torch.zeros(2).index_add_(0, T([0]), z[None])[0]


@link
def index_put(z: Tensor) -> Any:
    return torch.zeros(2).index_put_((z.long(),), T(1.3))[1]


@link
def out(z: Tensor) -> Any:
    result = torch.empty(())
    torch.mul(z, 1.1, out=result)
    return result


@link
def data_written(z: Tensor) -> Any:
    buffer = torch.zeros(())
    buffer.data.copy_(z)
    return buffer * 1.1


@link
def filled(z: Tensor) -> Any:
    return torch.zeros(2).fill_(z).sum()


@link
def numpy_written(z: Tensor) -> Any:
    buffer = np.zeros(2)
    buffer[int(z)] = 1.3
    return torch.from_numpy(buffer)[1]


@link
def list_written(z: Tensor) -> Any:
    held = [0.2]
    if z > 0:
        held.append(1.1)
    return sum(held)


@link
def dict_written(z: Tensor) -> Any:
    held = {}
    held[int(z)] = 1.1
    return held.get(1, 0.2)


@link
def set_size(z: Tensor) -> Any:
    return len({0, int(z)}) * 0.7


@link
def attribute(z: Tensor) -> Any:
    module: Any = nn.Linear(1, 1)
    module.seen = z.item()
    return float(module.seen) * 1.1


@link
def module_buffer(z: Tensor) -> Any:
    module: Any = nn.Module()
    module.register_buffer("held", torch.zeros(()))
    module.held.add_(z)
    return module.held * 1.1


@link
def state_dict(z: Tensor) -> Any:
    module = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(z.reshape(1, 1))
    return module(torch.ones(1)).sum()


@link
def generator(z: Tensor) -> Any:
    def steps() -> Any:
        yield 0.2
        if z > 0:
            yield 1.1

    return sum(steps())


@link
def callback(z: Tensor) -> Any:
    return {True: lambda: 1.3, False: lambda: 0.2}[bool(z > 0)]()


@link
def saved(z: Tensor) -> Any:
    file = io.BytesIO()
    torch.save(z, file)
    file.seek(0)
    return torch.load(file, weights_only=False) * 1.1


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


@link
def autograd_function(z: Tensor) -> Any:
    doubled: Any = Doubled
    return doubled.apply(z) * 0.6


@link
def caught_error(z: Tensor) -> Any:
    try:
        if z > 0:
            raise ValueError
    except ValueError:
        return 1.3
    return 0.2


@link
def assertion_caught(z: Tensor) -> Any:
    try:
        torch.distributions.Normal(0.0, z)
    except ValueError:
        return 1.3
    return 0.2
