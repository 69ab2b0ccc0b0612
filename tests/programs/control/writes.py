"""Writes: values put into tensors, lists and arrays, and read from elsewhere."""

import copy
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor

from programs.control.register import TABLE, coin, coins, control, num, roll, rows

write = control(escapes=False)


def zeros(*size: int) -> Tensor:
    return torch.zeros(*size, dtype=torch.float64)


def written(write: Callable[[Tensor], object], *size: int) -> Tensor:
    """Return zeros that were written into: [2], or of this size."""
    buffer = zeros(*(size or (2,)))
    write(buffer)
    return buffer


def pointed(theta: Tensor, view: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Write at a place that a coin chose, and pay where that may not have been."""
    memory = zeros(2)
    first = memory[0]
    view(memory, coin(theta[0]).long()).add_(0.7)
    return (first - 0.3) ** 2 * theta[1]


rows(
    write,
    {
        "a_place_that_was_drawn": lambda theta: pointed(theta, lambda b, at: b[at]),
        "a_drawn_place_of_an_alias": lambda theta: pointed(
            theta, lambda b, at: b.view(1, 2).detach()[:, at].view(1)[0:].data
        ),
        "a_drawn_place_by_the_op": lambda theta: pointed(
            theta, lambda b, at: torch.ops.aten.select.int(b, 0, at)
        ),
        "a_drawn_place_copied": lambda theta: pointed(theta, lambda b, at: copy.copy(b[at])),
        "the_base_of_a_view": lambda theta: (
            written(lambda b: b[0].copy_(coin(theta)), 2, 2).sum(0) * theta
        ).sum(),
        "the_data": lambda theta: written(lambda b: b.data.copy_(coin(theta))) @ theta,
        "a_detached_alias": lambda theta: written(lambda b: b.detach().add_(coin(theta))) @ theta,
        "out": lambda theta: written(lambda b: torch.exp(coin(theta), out=b)) @ theta,
        "out_through_a_view": lambda theta: (
            written(lambda b: torch.add(coin(theta), 1.0, out=b[1]), 2, 2).sum() * theta[1]
        ),
        "foreach_copy": lambda theta: (
            written(lambda b: torch._foreach_copy_([b], [coin(theta)])) @ theta
        ),
        "a_set": lambda theta: written(lambda b: b.set_(coin(theta))) @ theta,  # type: ignore[call-overload]
        "a_scatter": lambda theta: (
            written(lambda b: b.scatter_(0, roll(theta).reshape(1), 1.4), 3) @ TABLE[:3] * theta[1]
        ),
        "a_scattered_sum": lambda theta: (
            written(lambda b: b.scatter_add_(0, torch.tensor([1, 0]), coin(theta))) @ theta
        ),
        "an_index_put": lambda theta: (
            written(lambda b: b.index_put_((roll(theta).reshape(1),), num(1.2), accumulate=True), 3)
            @ TABLE[:3]
            * theta[1]
        ),
        "an_index_add": lambda theta: (
            written(lambda b: b.index_add_(0, roll(theta).reshape(1), TABLE[:1]), 3)
            @ TABLE[:3]
            * theta[1]
        ),
        "a_masked_fill": lambda theta: (
            written(lambda b: b.masked_fill_(coin(theta).bool(), 1.4)) @ theta
        ),
        "split_pieces": lambda theta: (
            written(lambda b: b.split(2)[1].copy_(coin(theta)), 4)[2:] @ theta
        ),
        "an_initialization": lambda theta: (
            written(lambda b: torch.nn.init.constant_(b, coin(theta[0]))) @ theta  # type: ignore[arg-type]
        ),
        "a_diagonal_written": lambda theta: (
            theta @ written(lambda b: b.diagonal().copy_(coin(theta)), 2, 2) @ theta
        ),
    },
)
rows(
    control(escapes=None),
    {
        "a_set_of_the_storage": lambda theta: (
            written(lambda b: b.set_(coin(theta).untyped_storage(), 0, (2,), (1,))) @ theta
        )
    },
)
rows(
    control(),
    {
        "numpy_written_by_copy": lambda theta: (
            written(lambda b: np.copyto(b.numpy(), np.asarray(coin(theta)))).square() @ theta
        )
    },
)


@write
def an_item(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    buffer[0] = coin(theta[0])
    return (buffer + 0.3).prod() * theta[1]


@control()
def an_item_at_a_sampled_place(theta: Tensor) -> Tensor:
    buffer = zeros(3)
    buffer[int(roll(theta))] = 1.7
    return buffer @ TABLE[:3] * theta[1]


@write
def an_item_at_a_tensor(theta: Tensor) -> Tensor:
    buffer = zeros(3)
    buffer[roll(theta)] = 1.7
    return buffer @ TABLE[:3] * theta[1]


@write
def an_item_at_a_mask(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    buffer[coin(theta) > 0] = 1.7
    return buffer @ theta


@control()
def an_item_of_python(theta: Tensor) -> Tensor:
    values = [0.2, 0.2, 0.2]
    values[int(roll(theta))] = 1.9
    return torch.tensor(values, dtype=torch.float64) @ TABLE[:3] * theta[1]


@control()
def a_constant_in_a_branch(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    if coin(theta[0]):
        buffer[1] = 1.3
    return buffer @ theta


@control()
def a_fill_in_a_branch(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    total = buffer.view(2)
    if coin(theta[0]):
        buffer.fill_(1.3)
    return total @ theta


@control(is_regardless=False)
def a_loss_written_in_a_branch(theta: Tensor) -> Tensor:
    w = coin(theta[1])
    term, loss = w * 0.8, w + theta[1]
    if coin(theta[0]):
        loss.copy_(term)
    return loss


@write
def a_view_that_was_there_before(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    view = buffer[1:]
    buffer.copy_(coin(theta))
    return view.sum() * theta[1]


@write
def a_sibling_view(theta: Tensor) -> Tensor:
    buffer = zeros(2, 2)
    column = buffer[:, 0]
    buffer.view(-1)[:2].add_(coin(theta))
    return (column * theta).sum()


@write
def the_data_replaced(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    buffer.data = coin(theta)
    return buffer @ theta


@write
def out_of_two(theta: Tensor) -> Tensor:
    values, places = zeros(1), torch.zeros(1, dtype=torch.int64)
    torch.max(coin(theta) * TABLE[2:], 0, keepdim=True, out=(values, places))
    return values[0] * theta[1] + places[0] * theta[0]


@write
def foreach(theta: Tensor) -> Tensor:
    buffers = [zeros(2), zeros(2)]
    torch._foreach_add_(buffers, [coin(theta), coin(theta) * 2])  # pyright: ignore[reportPrivateUsage]
    return (buffers[0] * buffers[1]) @ theta


@write
def foreach_of_one_draw(theta: Tensor) -> Tensor:
    """The draw is a scalar that all buffers are multiplied with."""
    buffers = [torch.ones_like(theta), 2 * torch.ones_like(theta)]
    torch._foreach_mul_(buffers, coin(theta[0]) + 1)  # pyright: ignore[reportPrivateUsage]
    return (buffers[0] * buffers[1]) @ theta


@write
def swapped(theta: Tensor) -> Tensor:
    buffer, z = zeros(2), coin(theta)
    torch.utils.swap_tensors(buffer, z)
    return buffer @ theta + z.sum()


@write
def a_row_of_a_loop(theta: Tensor) -> Tensor:
    buffer = zeros(3, 2)
    for row in buffer:
        row.add_(coin(theta[0]))
    return (buffer * TABLE[1:, None]).sum() * theta[1]


@write
def unbound_rows(theta: Tensor) -> Tensor:
    buffer = zeros(2, 2)
    first, second = buffer.unbind()
    first.copy_(coin(theta))
    second.copy_(first)
    return buffer[1] @ theta


@write
def an_activation_in_place(theta: Tensor) -> Tensor:
    x = coin(theta) - 0.3
    alias = x.view(2)
    F.relu(x, inplace=True)
    return alias @ theta


@write
def an_activation_through_a_view(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    buffer.add_(coin(theta) - 0.3)
    F.leaky_relu(buffer[:1], 0.2, inplace=True)
    return buffer @ theta


@control(escapes=None)
def a_resize(theta: Tensor) -> Tensor:
    z = coin(theta)
    z.resize_(1)
    return z.sum() * theta[1]


@write
def a_swap_of_rows(theta: Tensor) -> Tensor:
    buffer = torch.arange(4.0, dtype=torch.float64).reshape(2, 2)
    place = coin(theta[0]).long()
    buffer[[0, 1]] = buffer[torch.stack([place, 1 - place])]
    return buffer[0].sum() * theta[1]


@control()
def a_swap_in_a_branch(theta: Tensor) -> Tensor:
    buffer = torch.arange(2.0, dtype=torch.float64)
    if coin(theta[0]):
        buffer[0], buffer[1] = buffer[1].clone(), buffer[0].clone()
    return buffer @ theta


@control()
def numpy_written_in_place(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    buffer.numpy()[:] = coin(theta).numpy()
    return buffer @ theta


@write
def a_transpose_in_place(theta: Tensor) -> Tensor:
    buffer = zeros(2, 2)
    buffer[0] = coin(theta)
    buffer.t_()
    return buffer[0].sum() * theta[1]


@write
def a_strided_alias(theta: Tensor) -> Tensor:
    buffer = zeros(4)
    alias = buffer.as_strided((2,), (1,), 2)
    buffer[2:] = coin(theta)
    return alias @ theta


def part_that_depends_on_nothing(theta: Tensor) -> Tensor:
    """Return a part of a buffer of which another was drawn."""
    buffer = zeros(4)
    buffer[2:] = coin(theta)
    return buffer[:2]


@write
def a_stride_beyond_a_part(theta: Tensor) -> Tensor:
    return part_that_depends_on_nothing(theta).as_strided((2,), (1,), 2) @ theta


@write
def a_stride_beyond_a_part_by_function(theta: Tensor) -> Tensor:
    return torch.as_strided(part_that_depends_on_nothing(theta), (4,), (1,), 0)[2:] @ theta


@write
def a_part_that_grows(theta: Tensor) -> Tensor:
    return part_that_depends_on_nothing(theta).resize_(4)[2:] @ theta


@write
def a_stride_in_place_beyond_a_part(theta: Tensor) -> Tensor:
    return part_that_depends_on_nothing(theta).as_strided_((2,), (1,), 2) @ theta


@write
def a_stride_in_place_beyond_a_part_by_function(theta: Tensor) -> Tensor:
    return torch.as_strided_(part_that_depends_on_nothing(theta), (2,), (1,), 2) @ theta


@write
def a_part_with_what_lies_beyond(theta: Tensor) -> Tensor:
    part = part_that_depends_on_nothing(theta)
    copied = part.as_strided_scatter(theta[:1].detach(), (1,), (1,), 0)
    return copied.as_strided((2,), (1,), 2) @ theta


@write
def a_part_with_what_lies_beyond_by_function(theta: Tensor) -> Tensor:
    part = part_that_depends_on_nothing(theta)
    copied = torch.as_strided_scatter(part, theta[:1].detach(), (1,), (1,), 0)
    return copied.as_strided((2,), (1,), 2) @ theta


@write
def a_part_that_grows_as_another(theta: Tensor) -> Tensor:
    return part_that_depends_on_nothing(theta).resize_as_(zeros(4))[2:] @ theta


@write
def a_part_that_grows_as_another_by_function(theta: Tensor) -> Tensor:
    return torch.resize_as_(part_that_depends_on_nothing(theta), zeros(4))[2:] @ theta


@write
def an_integer_alias(theta: Tensor) -> Tensor:
    buffer = torch.zeros(2, dtype=torch.int64)
    alias = buffer.view(torch.float64)
    alias.copy_(coin(theta))
    return (buffer != 0).double() @ theta


@write
def a_ring_buffer(theta: Tensor) -> Tensor:
    memory, loss = zeros(2), theta[0] * 0.1
    for k in range(3):
        memory[k % 2] = coin(theta[0])
        loss = loss + memory.sum() * theta[1] * (k + 1)
    return loss


@control()
def a_ring_buffer_with_a_sampled_head(theta: Tensor) -> Tensor:
    memory, head = zeros(2), 0
    for k in range(3):
        memory[head] = k + 1.0
        head = (head + int(coin(theta[0]))) % 2
    return memory @ theta


@write
def a_chain_of_buffers(theta: Tensor) -> Tensor:
    first, second = zeros(2), zeros(2)
    view = second[:1]
    first.copy_(coins(theta[0], 2))
    second.copy_(first)
    return view.sum() * theta[1]


@write
def a_bernoulli_written_elsewhere(theta: Tensor) -> Tensor:
    buffer = zeros(2)
    alias = buffer.view(2, 1)
    buffer.zero_().add_(coin(theta)).mul_(2).clamp_(max=1.5)
    return alias[:, 0] @ theta


@write
def the_data_of_a_draw(theta: Tensor) -> Tensor:
    buffer = coin(theta)
    buffer.data = 2 * coin(-theta)
    return buffer @ theta


@write
def an_activation_of_a_term(theta: Tensor) -> Tensor:
    x = coin(theta) - 0.3
    F.relu(x, inplace=True)
    return x.sum() + theta[1] ** 2
