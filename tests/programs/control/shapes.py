"""Values that become a size: of a result, or of what is read from it."""

# torch.distributions is not annotated, and a tensor is no int to mypy.
# mypy: disable-error-code="no-any-return, arg-type, call-overload"

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Binomial

from programs.control.register import coin, coins, control, roll, rows

rows(
    control(),
    {
        "nonzero": lambda theta: theta[1] * coins(theta[0], 2).nonzero().shape[0],
        "nonzero_numel": lambda theta: theta[1].exp() * torch.nonzero(coin(theta)).numel(),
        "argwhere": lambda theta: theta[1] * len(torch.argwhere(coin(theta))),
        "masked_select": lambda theta: (
            theta[1] * torch.masked_select(torch.ones_like(theta), coin(theta).bool()).numel()
        ),
        "masked_select_of_a_draw": lambda theta: (
            theta[1] * (1.5 - coin(theta).masked_select(coin(theta) > 0).shape[0])
        ),
        "unique": lambda theta: theta[1] * coins(theta[0], 3).unique().numel(),
        "unique_consecutive": lambda theta: (
            theta[1] * torch.unique_consecutive(coins(theta[0], 3)).shape[0] ** 2
        ),
        # The counts are the only operand.
        "repeat_interleave_of_counts": lambda theta: (
            len(torch.repeat_interleave(coin(theta).long())) * theta[1]
        ),
        "repeat_interleave_by_keyword": lambda theta: (
            len(torch.ones(2).repeat_interleave(repeats=coin(theta).long())) * theta[1]
        ),
        "one_hot_of_unknown_width": lambda theta: theta[1] * F.one_hot(roll(theta)).shape[-1],
        "a_sparse_tensor": lambda theta: theta[1] * coin(theta).to_sparse().indices().shape[1],
        "repeat_interleave": lambda theta: (
            torch.repeat_interleave(theta, coin(theta).long() * 2 + 1).numel() * theta[1]
        ),
        "split_at_sampled_places": lambda theta: (
            theta[1] * len(torch.tensor_split(torch.arange(4.0), coin(theta[:1]).long() + 1)[0])
        ),
    },
)


@control()
def where_alone(theta: Tensor) -> Tensor:
    (rows,) = torch.where(coin(theta) > 0)
    return theta[1] * (1 + len(rows)) ** 2


@control()
def a_mask(theta: Tensor) -> Tensor:
    z = coin(theta)
    return theta[z > 0].sum() + theta[1] * len(z[z > 0])


@control()
def a_mask_of_bytes(theta: Tensor) -> Tensor:
    z = coin(theta)
    return theta[1] * len(z[(z > 0) & (z == z)])


@control(decides=False)
def a_mask_of_constants(theta: Tensor) -> Tensor:
    values = torch.tensor([0.4, -1.7], dtype=torch.float64)
    return values[coin(theta).bool()].sum() * theta[1]


@control()
def unique_with_counts(theta: Tensor) -> Tensor:
    values, counts = torch.unique(coins(theta[0], 3), return_counts=True)
    return theta[1] * len(values) + counts.max() * theta[0]


@control()
def bincount(theta: Tensor) -> Tensor:
    counts = torch.bincount(coins(theta[0], 2).long())
    return theta[1] * len(counts) + counts[0] * theta[0]


rows(
    control(escapes=None),
    {
        "a_range": lambda theta: theta[1] * len(torch.arange(roll(theta))),
        "a_number_of_points": lambda theta: theta[1] * torch.linspace(0, 1, roll(theta)).numel(),
        "a_number_of_points_apart": lambda theta: (
            theta[1] * torch.logspace(0, 1, roll(theta)).numel()
        ),
        "zeros_of_a_size": lambda theta: theta[1] * len(torch.zeros(roll(theta))),
        "ones_of_a_size": lambda theta: (
            torch.ones(roll(theta), 2, dtype=torch.float64).sum() * theta[1]
        ),
        "new_ones_of_a_size": lambda theta: theta.new_ones(roll(theta)).sum() * theta[1],
        "an_identity_of_a_size": lambda theta: torch.eye(roll(theta)).double().sum() * theta[1],
        "expanded_to_a_size": lambda theta: theta[1:].expand(roll(theta)).shape[0] * theta[0],
        "repeated": lambda theta: len(theta.repeat(roll(theta))) * theta[1],
        "narrowed": lambda theta: theta.narrow(0, 0, coin(theta[0]).long() + 1).sum() * theta[1],
        "a_slice": lambda theta: theta[: coin(theta[0]).long() + 1].exp().sum() * theta[1],
        "padded": lambda theta: len(F.pad(theta, (0, roll(theta)), value=1.0)) * theta[1],
        "chunks": lambda theta: theta[1] * len(torch.arange(4.0).chunk(roll(theta) + 1)),
        "split_into_pieces": lambda theta: (
            theta[1] * len(torch.arange(4.0).split(coin(theta[0]).long() + 1))
        ),
        "the_largest": lambda theta: (
            torch.tensor([0.4, 1.9]).double().topk(coin(theta[0]).long() + 1).values.sum()
            * theta[1]
        ),
    },
)


@control(escapes=None)
def a_packed_sequence(theta: Tensor) -> Tensor:
    lengths = coin(theta).long() + 1
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.ones(2, 2, 1), lengths, batch_first=True, enforce_sorted=False
    )
    return theta[1] * packed.data.shape[0]


@control()
def the_support_of_a_distribution(theta: Tensor) -> Tensor:
    fn = Binomial(total_count=coin(theta[0]) + 1, probs=torch.tensor(0.5, dtype=torch.float64))
    return theta[1] * len(fn.enumerate_support())


@control(escapes=None)
def resized(theta: Tensor) -> Tensor:
    buffer = torch.zeros(3)
    buffer.resize_(roll(theta))
    return theta[1] * buffer.numel()


@control()
def a_loop_over_what_is_left(theta: Tensor) -> Tensor:
    loss = theta[0] * 0.3
    for row in coins(theta[0], 2).nonzero():
        loss = loss + (theta[1] + 0.4) * (row + 1).sum()
    return loss


@control(escapes=None, decides=False)
def a_storage_offset(theta: Tensor) -> Tensor:
    z = coin(theta[0]).long()
    values = torch.tensor([0.4, -1.7, 0.8], dtype=torch.float64)
    return values.select(0, z + 1) * theta[1]
