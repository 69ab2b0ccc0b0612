"""What gets a score function, once: steps without a derivative, losses and baselines."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from programs.estimates import by
from torch import Tensor
from torch.distributions import Bernoulli, Normal
from two_coins import drawn, leaves, reading

import ancestral as an
from ancestral.errors import DependentBaselineError, HeldScoreWarning, StraightThroughWarning
from oracles import exact_gradient, mean_and_truth, moments


@reading
def test_held_scores() -> None:
    """A loss that multiplies the log-density of a draw by what is detached, or what Python read,
    holds its score function: `an.backward` warns once with the site, and `loss.backward()`, right
    there, does not.
    """
    rewards: list[Callable[[Tensor], Any]] = [
        lambda z: (2 * z).sum().detach(),
        lambda z: 2 * z.sum().item(),
    ]
    for reward in rewards:

        def loss(theta: Tensor, *, reward: Callable[[Tensor], Any] = reward) -> Tensor:
            z = drawn(theta)
            found: Tensor = (Bernoulli(logits=theta).log_prob(z) * reward(z)).sum()
            return found

        with an.record():
            value = loss(*leaves())
        with pytest.warns(HeldScoreWarning, match=r"'z' \(.*two_coins.py:\d+") as caught:
            an.backward(value)
        assert len([each for each in caught if each.category is HeldScoreWarning]) == 1
        exact = exact_gradient(lambda theta: 2 * drawn(theta).sum(), leaves())
        torch.testing.assert_close(moments(loss, leaves(), by(Tensor.backward)).mean, exact)


def test_straight_through() -> None:
    """A value that is that of a draw, with a gradient to its parameters by a path that adds zero,
    is a straight-through estimator: `an.backward` warns once with the line, and `loss.backward()`
    does not.
    """
    for call in (an.backward, Tensor.backward):
        (theta,) = leaves()
        with an.record():
            p = theta.sigmoid()
            z = Bernoulli(probs=p).sample()
            loss = ((z + p - p.detach()) ** 2).sum()
        if call is Tensor.backward:
            loss.backward()
            continue
        with pytest.warns(
            StraightThroughWarning, match=r"test_score_functions.py:\d+ has"
        ) as caught:
            call(loss)
        assert len(caught) == 1


def test_baselines() -> None:
    """A baseline that the draw reaches, by tensors or by what Python read, is refused with the site
    and the line; one that it does not reach leaves the mean as it is, and gets no gradient.
    """
    learned = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def program(theta: Tensor) -> Tensor:
        return ((drawn(theta) - 0.3) ** 2).sum()

    def ask(loss: Tensor) -> None:
        an.backward(loss, baseline=lambda credit: credit.of_others(0) + learned)

    torch.testing.assert_close(*mean_and_truth(program, leaves(), by(ask)), rtol=1e-9, atol=1e-9)
    assert learned.grad is None
    for illegal in (lambda credit: credit.total, lambda credit: credit.total.sum().item()):
        with an.record():
            loss = program(*leaves())
        with pytest.raises(DependentBaselineError, match=r"'z' .*two_coins.py:\d+"):
            an.backward(loss, baseline=illegal)


@reading
def test_kinks() -> None:
    """A site drawn by `rsample` gets its score function, on the same draw, for the terms that its
    value reaches through a comparison, a rounding, an argmax, a cast to integers or an escape, and
    for these alone; `estimator="pathwise"` warns there once, with the line of the step.
    """
    steps: list[Any] = [
        lambda z: (z > 0).double(),
        torch.round,
        lambda z: torch.stack([z, -z]).argmax().double(),
        lambda z: z.long().double(),
        lambda z: torch.ones(()).double() * (1 if z.item() > 0 else 2),
    ]
    for step in steps:
        theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        with an.record(control="after"):
            z = Normal(theta, 1.0).rsample()
            smooth = 3 * z
            cost = step(z)
        with pytest.warns(an.errors.KinkWarning, match=r"test_score_functions.py:\d+") as caught:
            an.backward(cost + smooth, estimator="pathwise", retain_graph=True)
        assert len(caught) == 1
        assert theta.grad == 3
        theta.grad = None
        an.backward(cost + smooth)
        expected = 3 + an.untrack(cost) * (an.untrack(z) - theta).detach()  # the score of a normal
        torch.testing.assert_close(theta.grad, expected)


def test_detached() -> None:
    """`detach` and `torch.no_grad` are taken at their word: no gradient goes through them, and
    they are no such step.
    """
    theta = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    with an.record():
        z = Normal(theta, 1.0).rsample()
        with torch.no_grad():
            square = z**2
        loss = z.detach() * 3 + square + z
    an.backward(loss)
    assert theta.grad == 1.0
