"""Compiled steps beside recordings: the same loss and the same gradient, draw by draw."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from programs.example import EXAMPLES
from steps import agreeing
from torch.distributions import (
    Bernoulli,
    Normal,
    OneHotCategoricalStraightThrough,
    RelaxedBernoulli,
    kl_divergence,
)

import ancestral as an
from ancestral.tools.demo.belief_net import BeliefNet

pytestmark = pytest.mark.usefixtures("fresh_compiler")

X = torch.tensor(
    [[0.2, 0.1, -0.5], [0.3, 0.9, 1.0], [0.2, -0.4, 0.8], [1.0, 0.3, 0.1]], dtype=torch.float64
)
W = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
V = torch.tensor([1.0, 0.5, 0.7], dtype=torch.float64, requires_grad=True)
Loss = Callable[[], Any]
LOSSES: dict[str, Loss] = {}


def loss(function: Loss) -> Loss:
    """Register a loss of two parameters, all of which is to be compiled."""
    LOSSES[function.__name__.strip("_")] = function
    return function


@loss
def _kink_of_some_terms() -> Any:
    z = Normal(W, V.exp()).rsample((4,))
    return ((z > 0) * z * X).mean() + (z**2).mean()


@loss
def _kink_of_all_terms() -> Any:
    z = Normal(W, V.exp()).rsample((4,))
    return ((z > 0) * X).mean()


@loss
def _kink_behind_another_draw() -> Any:
    z = Normal(W, V.exp()).rsample()
    y = Normal(z * V, 1.0).rsample((4,))
    return ((y > 0) * z * X).mean() + (z**2).sum() + (y - X).pow(2).mean()


@loss
def _kink_and_coin() -> Any:
    z = Normal(W, V.exp()).rsample((4,))
    b = Bernoulli(logits=z).sample()
    return ((z > 0.5) * b * X).mean() + (z * b).mean() + z.sin().sum()


@loss
def _two_kinks() -> Any:
    z, y = Normal(W, V.exp()).rsample((4,)), Normal(V, W.exp()).rsample((4,))
    return ((z > 0) * y * X).mean() + ((y > 0) * z * X).mean() + (z * y).mean()


@loss
def _own_density_of_a_kinked_draw() -> Any:
    q = Normal(W, V.exp())
    z = q.rsample((4,))
    return (q.log_prob(z) + (z > 0) * X).mean()


@loss
def _straight_through() -> Any:
    z = OneHotCategoricalStraightThrough(logits=W * X).rsample()
    return (z * V).mean()


@loss
def _relaxed() -> Any:
    z = RelaxedBernoulli(torch.tensor(0.5), logits=W * X).rsample()
    return (z * V).mean()


@loss
def _divergence() -> Any:
    z = Bernoulli(logits=W * X).sample()
    q = Normal(W * z, V.exp())
    y = q.rsample()
    return (y * X).mean() + kl_divergence(q, Normal(0.0, 1.0)).mean()


@loss
def _drawn_by_torch() -> Any:
    a = torch.bernoulli(torch.sigmoid(W * X))
    b = torch.sigmoid(a * V).bernoulli()
    c = torch.normal(W * b, V.exp().expand(4, 3))
    d = torch.poisson(V.exp() * X.abs() + c.abs())
    return (a * X).mean() + (b @ V).mean() + (c * X).sin().mean() + (d * X).mean()


@loss
def _filled_with_coins() -> Any:
    z = torch.empty(4, 3, dtype=torch.float64).bernoulli_(torch.sigmoid(W * X))
    y = torch.zeros(2, 4, 3, dtype=torch.float64)
    y[1].bernoulli_(p=torch.sigmoid(V))
    with torch.no_grad():
        x = torch.empty(3, dtype=torch.float64).bernoulli_(torch.sigmoid(V))
    return (z * X).mean() + (y @ W).mean() + (x * W).sum() + torch.empty(3).bernoulli_(0.3).sum()


@loss
def _drawn_by_multinomial() -> Any:
    weights = torch.softmax(W * X, -1)
    z = torch.multinomial(weights, 2, replacement=True)
    return (V[z] * X[:, :2]).mean() + (V[torch.multinomial(weights, 2)] * X[:, 1:]).mean()


@loss
def _drawn_without_gradients() -> Any:
    q, p = Bernoulli(logits=W * X), torch.sigmoid(W)
    with torch.no_grad():
        z, y = q.sample(), torch.bernoulli(p)
    return (z * X).mean() + (y * V).mean()


@loss
def _noise() -> Any:
    z = Bernoulli(logits=F.dropout(W * X)).sample()
    return (F.dropout(z) * X).mean() + (torch.randn(3) * z @ V).mean()


@loss
def _losses_of_torch() -> Any:
    z = Bernoulli(logits=W * X).sample()
    target, classes = (X > 0).double(), torch.tensor([0, 1, -100, 2])
    return (
        F.binary_cross_entropy_with_logits(z * V, target)
        + F.mse_loss(z, X, reduction="sum")
        + F.smooth_l1_loss(z * V, X)
        + F.kl_div(z, X.abs(), reduction="batchmean")
        + F.cross_entropy(z * V, classes)
        + F.cross_entropy(z * V, classes, weight=torch.tensor([1.0, 2.0, 3.0]).double())
    )


@loss
def _summed_in_place() -> Any:
    z = Bernoulli(logits=W * X).sample()
    total = torch.zeros((), dtype=torch.float64)
    total += (z * X).mean()
    total -= (z @ V).sum()
    return total


@loss
def _written_into_a_buffer() -> Any:
    z = Bernoulli(logits=W * X).sample()
    buffer = torch.zeros(4, 3, dtype=torch.float64)
    buffer[:, 0] = z[:, 0] * V[0]
    buffer[1] = z[1] * V
    return buffer.sum()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_compiled_with_the_gradient_of_a_recording(name: str) -> None:
    step = agreeing(LOSSES[name], [W, V])
    assert step.plan.is_compiled, step.plan
    assert step.plan.apart < 1e-10


SOME = (
    *("coupled_bits", "learned_coefficients", "rearranged_costs", "chain_that_adds", "diamond"),
    *("batch_that_adds", "global_site_over_a_batch", "elbo_of_two_layers", "elbo_of_a_categorical"),
    *("coin_normal_coin", "elbo_with_exact_divergence", "nll_with_class_weights"),
)


@pytest.mark.parametrize("name", SOME)
def test_an_enumerated_program_is_compiled(name: str) -> None:
    example = EXAMPLES[name]
    parameters = example.parameters
    step = agreeing(example.program, parameters, *parameters)
    assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize(
    "options",
    [
        {"baseline": None},
        {"baseline": an.estimators.LeaveOneOut()},
        {"credit": an.estimators.by_site},
        {"credit": an.estimators.total_cost, "baseline": None},
        {"estimator": "score"},
        {"baseline": {"h1": None, "*": "auto"}},
    ],
    ids=["bare", "leave-one-out", "by site", "total cost", "score", "by pattern"],
)
@pytest.mark.filterwarnings("ignore:LeaveOneOut subtracts nothing")
def test_a_choice_of_estimator_is_that_of_a_recording(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    net = BeliefNet()
    x = torch.bernoulli(torch.full((5, 64), 0.4))
    step = agreeing(net, list(net.parameters()), x, seeds=(0,), **options)
    assert step.plan.is_compiled, step.plan


def test_the_draws_of_aot_autograd_are_those_of_the_forward_pass() -> None:
    def step_of() -> Any:
        z = torch.multinomial(torch.softmax(W * X, -1), 1).squeeze(-1)
        y = Normal(V[z] * W[0], 1.0).rsample()
        return (Bernoulli(logits=y).sample() * X[:, 0]).mean() + (y * V[z]).mean()

    step = agreeing(step_of, [W, V], backend="aot_eager")
    assert step.plan.is_compiled, step.plan
