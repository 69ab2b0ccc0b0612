"""Programs that keep every value in tensors: nothing escapes, whatever the ops."""

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor
from torch.distributions import Binomial, Normal

from programs.control.register import TABLE, coin, coins, control, num, roll, rows

followed = control(escapes=False)


rows(
    followed,
    {
        "where": lambda theta: torch.where(coin(theta) > 0, theta * 2, theta.exp()).sum(),
        "gather": lambda theta: TABLE.gather(0, roll(theta).reshape(1)).sum() * theta[1],
        "a_table": lambda theta: TABLE[roll(theta)] * theta[1],
        "a_learned_table": lambda theta: theta[coin(theta).long()].prod(),
        "argmax": lambda theta: TABLE[coins(theta[0], 3).argmax()] * theta[1],
        "cumsum": lambda theta: (coins(theta[0], 3).cumsum(0) * TABLE[:3]).sum() * theta[1],
        "one_hot": lambda theta: (F.one_hot(roll(theta), 3).double() * TABLE[:3]).sum() * theta[1],
        "a_cast_to_bool": lambda theta: (
            (coin(theta).bool() & torch.tensor([True, True])).double() @ theta
        ),
        "an_iteration": lambda theta: sum(
            (z * k for k, z in enumerate(coins(theta[0], 3))), theta[1]
        ),
        "a_stack_in_a_comprehension": lambda theta: (
            torch.stack([coin(theta[k]) * (k + 0.3) for k in (0, 1, 1)]).prod() + theta[1]
        ),
        "a_factor_of_integers": lambda theta: (
            0.6 * (torch.tensor(3) * coin(theta[0])) * 1.4 + 0.1 * theta.sum()
        ),
        "a_divisor_of_integers": lambda theta: (
            0.6 * (coin(theta) / torch.tensor([3, 7])).sum() + 0.1 * theta.sum()
        ),
        "a_cast_to_int": lambda theta: (coin(theta).to(torch.int32) << 1 | 1).double() @ theta,
        "searching": lambda theta: (
            TABLE[torch.bucketize(coin(theta[0]) * 1.4, TABLE.sort().values)] * theta[1]
        ),
        "a_dictionary_of_terms_regardless": lambda theta: torch.stack(
            list({"a": coin(theta[0]) * 0.4, "b": (coin(theta[1]) - 0.7) ** 2}.values())
        ).sum(),
        "reward_to_go": lambda theta: (
            torch.stack([coin(theta[0]) - 0.2, 2 * coin(theta[1])]).flip(0).cumsum(0).flip(0).prod()
        ),
    },
)


@followed
def sorting(theta: Tensor) -> Tensor:
    values, order = torch.sort(coins(theta[0], 3) * TABLE[:3])
    return (values * TABLE[1:]).sum() * theta[1] + order[0] * theta[0]


@followed
def a_draw_in_single_precision(theta: Tensor) -> Tensor:
    z = coin(theta[0]).float()
    return ((z - 0.5) ** 2 + z).double() * theta[1]


@followed
def a_sum_of_types(theta: Tensor) -> Tensor:
    z, n = coin(theta[0]), roll(theta)
    return (z.float() + n + (z > 0)).double() * theta[1]


@followed
def a_scan(theta: Tensor) -> Tensor:
    carry, loss = num(0.2), num(0.0)
    for k in range(3):
        z = coin(theta[0] * carry + theta[1])
        carry = 0.5 * carry + z
        loss = loss + (carry - 0.4 * k) ** 2
    return loss


@followed
def an_accumulator_in_place(theta: Tensor) -> Tensor:
    loss = num(0.0)
    for k in range(3):
        loss += (coin(theta[k % 2]) - 0.3) ** 2 * (k + 1)
    return loss


@followed
def an_unpacking(theta: Tensor) -> Tensor:
    first, second = coin(theta)
    return first * theta[1] - second * 2  # type: ignore[no-any-return]


@followed
def smooth_steps_of_a_reparameterized_draw(theta: Tensor) -> Tensor:
    y = Normal(theta[0] + coin(theta[1]), 0.6).rsample()
    return y.tanh() * 0.4 + (y - 0.2) ** 2


@followed
def a_coin_of_a_reparameterized_draw(theta: Tensor) -> Tensor:
    y = Normal(theta[0], 0.6).rsample()
    return (coin(y * theta[1]) - 0.3) ** 2


@followed
def counting(theta: Tensor) -> Tensor:
    z = coins(theta[0], 3)
    return z.count_nonzero() * theta[1] + z.any() * 0.3 + z.bool().all() * theta[0]


@followed
def a_number_of_heads(theta: Tensor) -> Tensor:
    heads = Binomial(2, logits=theta[0]).sample()
    return (heads - 0.7) ** 2 * theta[1]  # type: ignore[no-any-return]
