"""Operators on functions: cond, while_loop, scan and map, with operands that require a gradient.

Outside a recording torch compiles what they are given; the oracle runs the Python that they mean.
"""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops import associative_scan, scan, while_loop
from torch._higher_order_ops.map import map as _map

from ancestral.trace.context.stack import local
from programs.control.register import TABLE, coin, control, rows

followed = control(escapes=False)
looped = control(escapes=None, decides=False)
_Function = Callable[..., Any]


def cond(pred: Tensor, yes: _Function, no: _Function, operands: Sequence[Tensor]) -> Any:
    if local.traces:
        return torch.cond(pred, yes, no, tuple(operands))
    return (yes if pred else no)(*operands)


def loop(test: _Function, body: _Function, carried: tuple[Tensor, ...]) -> Any:
    if local.traces:
        return while_loop(test, body, carried)
    while test(*carried):
        carried = body(*carried)
    return carried


def mapped(function: _Function, xs: Tensor) -> Tensor:
    if local.traces:
        return _map(function, xs)
    return torch.stack([function(x) for x in xs])


rows(
    followed,
    {
        "a_condition_on_a_draw": lambda theta: cond(
            coin(theta[0]) > 0, lambda t: t.exp(), lambda t: 3 * t**2, (theta[1],)
        ),
        "a_condition_around_a_parameter": lambda theta: cond(
            coin(theta[0]) > 0, lambda t: t * theta[1], lambda t: t + theta.prod(), (TABLE[0],)
        ),
        "a_condition_that_draws": lambda theta: cond(
            coin(theta[0]) > 0,
            lambda t: coin(t) * 1.3 + t,
            lambda t: 2 * coin(t - 0.4),
            (theta[1],),
        ),
        "a_map_over_a_draw": lambda theta: mapped(
            lambda x: x.exp() * theta[1], theta * coin(theta)
        ).sum(),
    },
)


@followed
def a_condition_whose_operand_is_a_draw(theta: Tensor) -> Tensor:
    z = coin(theta)
    return cond(z[0] > 0, lambda t: (t * TABLE[:2]).sum(), lambda t: t[1].cos(), (theta * z,))


@followed
def a_condition_with_several_results(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    a, b = cond(z > 0, lambda t: (t, t * 2), lambda t: (t * t, t.sin()), (theta[1],))
    return a - 0.3 * b


@followed
def a_condition_within_a_condition(theta: Tensor) -> Tensor:
    z, w = coin(theta)
    return cond(
        z > 0,
        lambda t: cond(w > 0, lambda u: u * 2, lambda u: u**3, (t,)),
        lambda t: t.exp(),
        (theta[1],),
    )


@looped
def a_loop_of_torch(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    start = (theta[1].exp() + 0.1) * (1 + z)
    (end,) = loop(lambda x: x < 4, lambda x: (x * 2,), (start,))
    return end


@looped
def a_loop_that_is_decided_by_a_draw(theta: Tensor) -> Tensor:
    z = coin(theta)
    counted = loop(
        lambda i, x: i < z.sum(), lambda i, x: (i + 1, x * 1.7), (TABLE[0] * 0, theta[1])
    )
    return counted[1]


@followed
def a_map_over_parameters(theta: Tensor) -> Tensor:
    z = coin(theta[0])
    return (mapped(lambda x: x * x * z, theta) * TABLE[:2]).sum()


@followed
def a_scan_over_a_draw(theta: Tensor) -> Tensor:
    start, xs = theta[1] * 1.0, theta * coin(theta)
    if local.traces:
        _, ys = scan(lambda c, x: (c + x, c * x), start, xs)
        return ys.sum()
    return start * xs[0] + (start + xs[0]) * xs[1]


@followed
def an_associative_scan_over_a_draw(theta: Tensor) -> Tensor:
    xs = theta * (coin(theta) + 0.3)
    if local.traces:
        return associative_scan(lambda a, b: a * b, xs, 0, combine_mode="generic").sum()
    return xs.cumprod(0).sum()
