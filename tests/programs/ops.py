"""The ops that random programs apply."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

WEIGHTS = torch.tensor([1.2, -0.6], dtype=torch.float64)


def fixed(rows: int, columns: int) -> Tensor:
    """Return a fixed matrix."""
    numbers = torch.arange(1, rows * columns + 1, dtype=torch.float64)
    return numbers.mul(1.7).cos().reshape(rows, columns)


@dataclass(frozen=True)
class Op:
    """How to run an op, on which operands it can run, and the other arguments it takes.

    `is_kinked` says that it compares values: no pathwise derivative survives that.
    """

    run: Callable[..., Tensor]
    fits: Callable[..., bool] = lambda x: True
    options: Callable[..., Sequence[object]] = lambda *operands: (None,)
    arity: int = 1
    is_kinked: bool = False


def broadcast(*operands: Tensor) -> bool:
    try:
        torch.broadcast_shapes(*(x.shape for x in operands))
    except RuntimeError:
        return False
    return True


def alike(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape


def has_dims(x: Tensor) -> bool:
    return x.ndim > 0


def dims(x: Tensor) -> Sequence[object]:
    return range(x.ndim)


def written_row_by_row(x: Tensor, y: Tensor, _: object) -> Tensor:
    buffer = torch.zeros(2, *x.shape, dtype=torch.float64)
    buffer[0] = x
    buffer[1] = y
    return buffer


def written_through_a_view(x: Tensor, _: object) -> Tensor:
    buffer = torch.zeros(x.numel(), 2, dtype=torch.float64)
    view = buffer[:, 1]
    view.add_(x.reshape(-1))
    return buffer


def written_before_the_view(x: Tensor, _: object) -> Tensor:
    buffer = torch.zeros(x.numel(), dtype=torch.float64)
    view = buffer.view(-1, 1)
    buffer.copy_(x.flatten())
    return view * 2


def written_through_a_sibling(x: Tensor, _: object) -> Tensor:
    buffer = torch.zeros(x.numel(), 2, dtype=torch.float64)
    before, view = buffer.t(), buffer[:, 0]
    view.copy_(x.reshape(-1))
    return before * 2


def overwritten_in_part(x: Tensor, y: Tensor, at: int) -> Tensor:
    copied = x.clone()
    copied[at] = y.sum()
    return copied


def accumulated(x: Tensor, y: Tensor, _: object) -> Tensor:
    total = torch.zeros_like(x)
    total += x
    total.mul_(0.5).sub_(y.mean())
    return total


def reshapes(x: Tensor) -> Sequence[object]:
    n = x.numel()
    return [(n,), (n, 1), (1, n), *([(2, n // 2), (n // 2, 2)] if n % 2 == 0 else [])]


OPS: dict[str, Op] = {
    "add": Op(lambda x, y, _: x + y, broadcast, arity=2),
    "sub": Op(lambda x, y, _: x - y, broadcast, arity=2),
    "mul": Op(lambda x, y, _: x * y, broadcast, arity=2),
    "div": Op(lambda x, y, _: x / (1 + y * y), broadcast, arity=2),
    "scale": Op(lambda x, k: k * x, options=lambda x: (0.3, -1.7, 3)),
    "tanh": Op(lambda x, _: x.tanh()),
    "square": Op(lambda x, _: x.clamp(-2, 2) ** 2),
    "one_minus": Op(lambda x, _: 1 - x),
    "detach": Op(lambda x, _: x.detach()),
    "matmul": Op(lambda x, k: x @ fixed(x.shape[-1], k), has_dims, lambda x: (1, 2)),
    "linear": Op(lambda x, k: F.linear(x, fixed(k, x.shape[-1])), has_dims, lambda x: (1, 2)),
    "left_matmul": Op(
        lambda x, k: fixed(k, len(x)) @ x, lambda x: 0 < x.ndim < 3, lambda x: (1, 2)
    ),
    "mm": Op(
        lambda x, y, _: x.mm(y),
        lambda x, y: x.ndim == y.ndim == 2 and x.shape[1] == len(y),
        arity=2,
    ),
    "einsum": Op(
        lambda x, y, _: torch.einsum("ij,ik->ijk", x, y),
        lambda x, y: x.ndim == y.ndim == 2 and len(x) == len(y),
        arity=2,
    ),
    "outer": Op(lambda x, y, _: torch.outer(x, y), lambda x, y: x.ndim == y.ndim == 1, arity=2),
    "softmax": Op(lambda x, d: x.softmax(d), has_dims, dims),
    "log_softmax": Op(lambda x, d: F.log_softmax(x, dim=d), has_dims, dims),
    "logsumexp": Op(lambda x, d: torch.logsumexp(x, d), has_dims, dims),
    "sum": Op(lambda x, d: x.sum(d), has_dims, dims),
    "sum_keeping": Op(lambda x, d: torch.sum(x, dim=d, keepdim=True), has_dims, dims),
    "mean": Op(lambda x, d: x.mean(dim=d), has_dims, dims),
    "prod": Op(lambda x, d: x.prod(d), has_dims, dims),
    "cumsum": Op(lambda x, d: x.cumsum(d), has_dims, dims),
    "flip": Op(lambda x, d: x.flip(d), has_dims, dims),
    "roll": Op(lambda x, d: x.roll(1, d), has_dims, dims),
    "sort": Op(lambda x, d: x.sort(dim=d).values, has_dims, dims),
    "unbound": Op(lambda x, d: torch.stack(x.unbind(d)[::-1], d), has_dims, dims),
    "norm": Op(lambda x, _: torch.linalg.norm(x, dim=-1), has_dims),
    "layer_norm": Op(lambda x, _: F.layer_norm(x, x.shape[-1:], eps=0.1), has_dims),
    "kron": Op(lambda x, _: torch.kron(x, WEIGHTS), lambda x: x.ndim == 1),
    "tril": Op(lambda x, _: x.tril(), lambda x: x.ndim == 2),
    "reshape": Op(lambda x, shape: x.reshape(shape), options=reshapes),
    "view": Op(lambda x, shape: x.contiguous().view(*shape), options=reshapes),
    "transpose": Op(lambda x, _: x.transpose(0, -1), has_dims),
    "permute": Op(lambda x, _: x.permute(1, 2, 0), lambda x: x.ndim == 3),
    "unsqueeze": Op(lambda x, d: x.unsqueeze(d), lambda x: x.ndim < 3, lambda x: range(x.ndim + 1)),
    "squeeze": Op(lambda x, _: x.squeeze()),
    "expand": Op(lambda x, _: x.unsqueeze(-1).expand(*x.shape, 2), lambda x: x.ndim < 3),
    "repeat": Op(lambda x, _: x.repeat(2, *(1 for _ in x.shape[1:])), has_dims),
    "row": Op(lambda x, k: x[k], has_dims, lambda x: range(len(x))),
    "column": Op(lambda x, _: x[..., -1], has_dims),
    "slice": Op(lambda x, d: x.narrow(d, 0, max(1, x.shape[d] - 1)), has_dims, dims),
    "tail": Op(lambda x, _: x[..., 1:], lambda x: x.ndim > 0 and x.shape[-1] > 1),
    "every_other": Op(lambda x, _: x[::2], has_dims),
    "picked": Op(lambda x, _: x[torch.tensor([len(x) - 1, 0])], has_dims),
    "index_select": Op(
        lambda x, d: x.index_select(d, torch.tensor([x.shape[d] - 1, 0])), has_dims, dims
    ),
    "gather": Op(lambda x, d: x.gather(d, torch.zeros(x.shape, dtype=torch.int64)), has_dims, dims),
    "where": Op(lambda x, y, z, _: torch.where(x > 0.5, y, z), broadcast, arity=3, is_kinked=True),
    "masked_fill": Op(lambda x, y, _: y.masked_fill(x > 0.5, 0.3), alike, arity=2, is_kinked=True),
    "cat": Op(
        lambda x, y, d: torch.cat([x, y], dim=d),
        lambda x, y: alike(x, y) and x.ndim > 0,
        lambda x, y: range(x.ndim),
        arity=2,
    ),
    "stack": Op(
        lambda x, y, d: torch.stack([x, y], dim=d), alike, lambda x, y: range(x.ndim + 1), arity=2
    ),
    "written_row_by_row": Op(written_row_by_row, alike, arity=2),
    "written_through_a_view": Op(written_through_a_view),
    "written_before_the_view": Op(written_before_the_view),
    "written_through_a_sibling": Op(written_through_a_sibling),
    "overwritten_in_part": Op(
        overwritten_in_part, lambda x, y: x.ndim > 0, lambda x, y: range(len(x)), arity=2
    ),
    "accumulated": Op(accumulated, lambda x, y: True, arity=2),
}
