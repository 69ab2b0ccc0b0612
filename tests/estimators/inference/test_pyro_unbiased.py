"""The gradient of the loss for Pyro's SVI is that of the bound, on average over all outcomes.

The bound is computed by Pyro alone, on every path of a program, and differentiated.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs.in_pyro import poutine
from programs.pyro_links import REFUSED
from programs.pyro_pairs import PAIRS, Pair
from torch import Tensor

from ancestral.infer import TraceGraph_ELBO
from oracles import Path, enumerated, estimates_on, flat, moments_of

pytestmark = [
    pytest.mark.usefixtures("in_double_precision"),
    # A user's decision by a draw has its price, of which the warning tells.
    pytest.mark.filterwarnings("ignore::ancestral.errors.BlurredCreditWarning"),
    # Pyro takes what the guide computes, and names, for a draw.
    pytest.mark.filterwarnings("ignore:Found non-auxiliary vars in guide:UserWarning"),
]
AT = ((0.3, -0.8, 0.5, -0.2), (-0.4, 0.6, 0.9, 0.1))
STRUCTURES = [name for name in PAIRS if ":" not in name]


def negative_bound(pair: Pair, q: Tensor, p: Tensor) -> Tensor:
    model, guide = pair(q, p)
    guided = poutine.trace(guide).get_trace()
    modelled = poutine.trace(poutine.replay(model, trace=guided)).get_trace()
    return torch.as_tensor(guided.log_prob_sum() - modelled.log_prob_sum())


def parameters() -> tuple[Tensor, Tensor]:
    return torch.tensor(AT[0], requires_grad=True), torch.tensor(AT[1], requires_grad=True)


def grads(loss: Any, pair: Pair, q: Tensor, p: Tensor) -> Tensor:
    q.grad = p.grad = None
    loss.loss_and_grads(*pair(q, p))
    return flat([torch.zeros(4) if x.grad is None else x.grad for x in (q, p)])


def differentiated(loss: Any, pair: Pair, q: Tensor, p: Tensor) -> Tensor:
    scalar = loss.differentiable_loss(*pair(q, p))
    return flat(torch.autograd.grad(scalar, (q, p), materialize_grads=True))


Way = Callable[[Any, Pair, Tensor, Tensor], Tensor]


def mean_of(pair: Pair, runs: list[Path], at: tuple[Tensor, Tensor], loss: Any, way: Way) -> Tensor:
    found = estimates_on(runs, negative_bound, at, lambda _, at: way(loss, pair, *at))
    return moments_of(*found).mean


def check(pair: Pair, loss: Any, way: Way = grads) -> None:
    at = parameters()
    runs, truth = enumerated(lambda q, p: negative_bound(pair, q, p), at)
    torch.testing.assert_close(mean_of(pair, runs, at, loss, way), truth, atol=1e-9, rtol=1e-9)


def link_of(name: str) -> str:
    return name.partition(": ")[2]


@pytest.mark.parametrize("name", [name for name in PAIRS if link_of(name) not in REFUSED])
def test_the_mean_gradient_is_that_of_the_bound(name: str) -> None:
    check(PAIRS[name], TraceGraph_ELBO())


@pytest.mark.parametrize("name", [name for name in PAIRS if link_of(name) in REFUSED])
def test_what_cannot_be_followed_is_refused_with_the_line(name: str) -> None:
    with pytest.raises(REFUSED[link_of(name)], match=r"pyro_links\.py:\d+"):
        check(PAIRS[name], TraceGraph_ELBO())


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("way", [grads, differentiated])
def test_without_a_baseline_the_mean_gradient_is_the_same(name: str, way: Way) -> None:
    check(PAIRS[name], TraceGraph_ELBO(baseline=None), way)
