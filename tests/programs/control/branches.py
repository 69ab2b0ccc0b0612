"""Branches: what Python computes and draws after it has looked at a value."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

import contextlib
import functools
import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal

from ancestral.provenance.tensor.control_flow import control_scope
from programs.control.register import coin, coins, control, num, roll


@control()
def an_if(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    if z > 0:
        return theta[1] ** 2 + 1
    return theta[1] * 3 - 0.2


@control()
def an_if_of_an_item(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    loss = theta.sum() * 0.1
    if z.item():
        loss = loss + num(1.7)
    return loss


@control()
def an_else_that_does_nothing(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    loss = (theta**2).sum()
    if not z:
        loss = loss + 2 * theta[1]
    return loss


@control()
def nested_ifs(theta: Tensor) -> Tensor:
    a, b = coin(theta[0]), coin(theta[1])
    if a > 0:
        if b > 0:
            return num(0.7) + theta[0]
        return num(-0.4) * theta[1]
    return num(1.1) + 0 * theta.sum()


@control()
def a_chain_of_comparisons(theta: Tensor) -> Tensor:
    total = coins(theta[0], 3).sum()
    return theta[1] * 2 if 0 < total < 3 else theta[1] - 1.5


@control()
def short_circuits(theta: Tensor) -> Tensor:
    a, b = coin(theta[0]), coin(theta[1])
    is_either = a or b
    is_both = a and b
    scale = (0.6 if is_either else -0.3) + (1.9 if is_both else 0.0)
    return scale * (1 + theta[0] ** 2)


@control()
def a_while_loop(theta: Tensor) -> Tensor:
    loss, count = theta[1] * 0.5, 0
    while count < 3 and coin(theta[0] - 0.3 * count):
        loss = loss + 0.4 + 0.1 * count
        count += 1
    return loss


@control()
def a_loop_that_breaks(theta: Tensor) -> Tensor:
    loss = num(0.0)
    for step in range(4):
        if coin(theta[0]) > 0:
            break
        loss = loss + (step + 1) * theta[1].exp()
    else:
        loss = loss - 2 + theta[1]
    return loss + 0 * theta.sum()


@control()
def a_loop_that_continues(theta: Tensor) -> Tensor:
    loss = num(0.0)
    for step, z in enumerate(coins(theta[0], 3)):
        if z == 0:
            continue
        loss = loss + theta[1] ** step
    return loss


@control()
def a_loop_of_sampled_length(theta: Tensor) -> Tensor:
    n = roll(theta)
    loss = theta[0] * 0.2
    for step in range(int(n)):
        loss = loss + (theta[1] - step) ** 2
    return loss


@control()
def a_range_of_a_tensor(theta: Tensor) -> Tensor:
    n = roll(theta)
    loss = theta[0] * 0.2
    for step in range(n):
        loss = loss + num(0.5) * (step + 1)
    return loss


@control()
def a_draw_in_one_branch(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    if z > 0:
        return (coin(theta[1]) - 0.3) ** 2 * 2
    return theta[1] ** 2


@control()
def draws_in_both_branches(theta: Tensor) -> Tensor:
    if coin(theta[0]):
        return 2 * coin(theta[1]) + coin(theta[0] * theta[1])
    return 0.5 - coin(-theta[1])


@control()
def a_sampled_number_of_plates(theta: Tensor) -> Tensor:
    n = int(roll(theta)) + 1
    z = Bernoulli(logits=theta[1].expand(n)).sample()
    return ((z - 0.4) ** 2).sum() * 1.3


@control()
def a_parameter_chosen_by_a_branch(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    logit = num(1.5) if z > 0 else num(-0.7)
    return (coin(logit) - 0.2) ** 2 * 3


@control()
def a_learned_parameter_chosen_by_a_branch(theta: Tensor) -> Tensor:
    likely, unlikely = theta[1] + 1, theta[1] - 2
    q = Bernoulli(logits=likely if coin(theta[0]) > 0 else unlikely)
    return q.sample() * 1.7


@control()
def a_distribution_chosen_by_a_branch(theta: Tensor) -> Tensor:
    choices = {True: Bernoulli(logits=theta[1]), False: Bernoulli(logits=num(0.9))}
    return choices[bool(coin(theta[0]))].sample() * 2.2


@control()
def a_reparameterized_draw_in_a_branch(theta: Tensor) -> Tensor:
    if coin(theta[0]) > 0:
        y = Normal(theta[1], 0.5).rsample()
        return (y - 0.3) ** 2
    return theta[1].cos()


@control()
def a_location_chosen_by_a_branch(theta: Tensor) -> Tensor:
    centre = theta[1] * 2 if coin(theta[0]) > 0 else num(-1.0)
    y = Normal(centre, 0.7).rsample()
    return (y * 0.8).tanh() + y**2


@control()
def a_scale_chosen_by_a_branch(theta: Tensor) -> Tensor:
    scale = 0.4 if coin(theta[0]) > 0 else 1.3
    return (Normal(theta[1], scale).rsample() - 0.2) ** 2


@control()
def an_assertion(theta: Tensor) -> Tensor:
    """The assertion never fails, but Python has seen the value, and uses it."""
    z = coin(theta[0])
    assert z >= 0
    known = z.item()
    return theta[1] * (2.0 if known == 1 else 0.5)


@control(escapes=False)
def an_assertion_alone(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    assert z >= 0
    return (z - 0.4) ** 2 + theta[1] ** 2 * coin(theta[1])


@control()
def an_exception(theta: Tensor) -> Tensor:
    def refuse(z: Tensor) -> None:
        if z > 0:
            raise ValueError("heads")

    try:
        refuse(coin(theta[0]))
    except ValueError:
        return num(1.4) + theta[1]
    return num(0.3) * theta[1]


@control()
def an_exception_of_python(theta: Tensor) -> Tensor:
    try:
        return num(3.0) / (1 // int(coin(theta[0]))) + theta[1]
    except ZeroDivisionError:
        return num(0.6) * theta[1]


@control()
def a_finally(theta: Tensor) -> Tensor:
    losses = [theta.sum() * 0.1]
    try:
        if coin(theta[0]):
            losses.append(num(0.9))
    finally:
        losses.append(theta[1] * 0.3)
    return torch.stack(losses).prod()


@control()
def a_match_statement(theta: Tensor) -> Tensor:
    match roll(theta).item():
        case 0:
            return theta[0] * 2
        case 1:
            return theta[1] + 1
        case _:
            return theta.prod() - 0.5


@control()
def a_match_on_the_tensor(theta: Tensor) -> Tensor:
    match roll(theta):
        case 0:
            return theta[0] * 2
        case other if other == 1:
            return theta[1] + 1
        case _:
            return num(-0.5) + 0 * theta[0]


@control()
def a_generator(theta: Tensor) -> Tensor:
    def steps() -> Iterator[Tensor]:
        for k in range(3):
            if coin(theta[0]):
                return
            yield theta[1] + k

    return sum(steps(), num(0.4))


@control()
def a_generator_that_is_sent_values(theta: Tensor) -> Tensor:
    def stack() -> Iterator[Tensor]:
        scale = 1.0
        for k in range(2):
            yield num(scale) * (k + 1)
            scale = 2.5 if coin(theta[k]) else -1.0
        yield num(scale)

    return torch.stack(list(stack())).sum() + 0 * theta[0]


@control()
def take_while(theta: Tensor) -> Tensor:
    z = coins(theta[0], 3)
    taken = list(itertools.takewhile(lambda each: each > 0, z))
    return (theta[1] - len(taken)) ** 2


@control()
def compress(theta: Tensor) -> Tensor:
    kept = list(itertools.compress((1.0, -2.0), coin(theta)))
    return num(sum(kept)) * theta[1].exp()


@control()
def a_filter(theta: Tensor) -> Tensor:
    kept = [k for k, z in enumerate(coin(theta)) if z]
    return theta[1] * sum(kept) + num(0.3) * len(kept)


@control()
def a_recursion(theta: Tensor) -> Tensor:
    def tree(depth: int) -> Tensor:
        if depth == 2 or not coin(theta[0]):
            return theta[1] + depth
        return tree(depth + 1) * tree(depth + 1)

    return tree(0)


@control()
def a_reduction_of_python(theta: Tensor) -> Tensor:
    def step(carry: Tensor, z: Tensor) -> Tensor:
        return carry * 1.5 if z else carry + theta[1]

    return functools.reduce(step, coin(theta), num(0.7))


@control()
def a_walrus(theta: Tensor) -> Tensor:
    if (n := int(roll(theta))) > 1:
        return theta[0] * n
    return theta[1] - n


@control()
def a_flag_that_lives_on(theta: Tensor) -> Tensor:
    """The branch is over when its flag is used."""
    is_heads = False
    if coin(theta[0]):
        is_heads = True
    other = coin(theta[1])
    extra = num(0.8) if is_heads else num(-0.5)
    return other * extra + extra


@control()
def a_counter(theta: Tensor) -> Tensor:
    count = 0
    for z in coin(theta):
        count += bool(z)
    return torch.full((), 0.7, dtype=torch.float64) ** count + theta[0]


@control()
def an_attribute_chosen_by_name(theta: Tensor) -> Tensor:
    class Heads:
        head_0 = staticmethod(lambda x: x + 1)
        head_1 = staticmethod(lambda x: x * x)

    return getattr(Heads, f"head_{int(coin(theta[0]))}")(theta[1])


@control()
def a_context_that_swallows(theta: Tensor) -> Tensor:
    loss = theta[1] * 0.7
    with contextlib.suppress(IndexError):
        [1, 2][int(roll(theta))]
        loss = loss + num(1.2)
    return loss


@control()
def only_what_was_compared_before(theta: Tensor) -> Tensor:
    """The comparison is computed long before Python looks at it."""
    is_heads = coin(theta[0]) > 0
    other = coin(theta[1])
    loss = (other - 0.4) ** 2
    if is_heads:
        loss = loss + theta[1] * 1.5
    return loss


@control()
def an_early_return_of_plain_tensors(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    low, high = theta[1] ** 2, theta[1] + 3
    if z > 0:
        return low
    return high


@control()
def draws_in_a_scope(theta: Tensor) -> Tensor:
    """What outlives the block is a draw alone, which knows what its own parameter depends on."""
    first, second = Bernoulli(logits=num(1.5)), Bernoulli(logits=num(-0.7))
    with control_scope():
        w = (first if coin(theta[0]) > 0 else second).sample()
    return (w - 0.2) ** 2 * 3 + theta[1]


@control()
def tensors_in_a_scope(theta: Tensor) -> Tensor:
    with control_scope():
        scale = num(1.5) if coin(theta[0]) > 0 else num(-0.7)
    return scale * theta[1]
