"""Simulators as external calls: credited as if they were written in tensors, or by hand."""

# torch.distributions is not annotated.
# mypy: disable-error-code="no-any-return"

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from programs.estimates import by, fresh, gradients
from programs.walks import THETA, Walks
from torch import Tensor
from torch.distributions import Bernoulli

import ancestral as an
from oracles import Parameters, autograd, estimates, exact_gradient, moments, moments_of


def rollout(theta: Tensor, step: Callable[[Tensor], Any], horizon: int = 2) -> Tensor:
    """Walk two lines at once; the second action depends on the place that the first has led to."""
    place, total = torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for _ in range(horizon):
        action = Bernoulli(logits=theta[0] + theta[1] * place).sample()
        place, reward = step(action)
        total = total + reward.sum()
    return total


def by_external(theta: Tensor) -> Tensor:
    walks = Walks()
    return rollout(theta, an.external(lambda a: walks.step(a.numpy())))


def by_tensors(theta: Tensor) -> Tensor:
    place = torch.zeros(2, dtype=torch.float64)

    def step(action: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal place
        place = place + torch.where(action > 0.5, 1.0, -0.7)
        return place, torch.tanh(place) * torch.tensor([1.0, 2.0], dtype=torch.float64)

    return rollout(theta, step)


def by_numpy(theta: Tensor) -> Tensor:
    walks = Walks()

    def step(action: Tensor) -> Any:
        place, reward = walks.step(action.numpy())
        return torch.tensor(place), torch.tensor(reward)

    return rollout(theta, step)


@pytest.mark.parametrize("control", ["strict", "after", "error", "ignore"])
def test_a_simulator_is_credited_as_if_it_were_written_in_tensors(control: str) -> None:
    found = estimates(by_external, [THETA], by(control=control))
    expected = estimates(by_tensors, [THETA], by())
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(moments_of(*found).mean, exact_gradient(by_external, [THETA]))


def test_it_has_less_variance_than_a_simulator_that_python_looks_into() -> None:
    after = by(lambda loss: an.backward(loss, baseline=None), control="after")
    ours = moments(by_external, [THETA], after)
    theirs = moments(by_numpy, [THETA], after)
    torch.testing.assert_close(ours.mean, theirs.mean)
    assert ours.variance.sum() < 0.7 * theirs.variance.sum()


def test_after_the_block_it_is_followed_as_well() -> None:
    def program(theta: Tensor, step: Callable[[Tensor], Any]) -> Tensor:
        return step(Bernoulli(logits=theta).sample())[1].sum()

    def estimate(_: Any, parameters: Parameters) -> Tensor:
        (theta,) = fresh(parameters)
        walks = Walks()
        step = an.external(lambda a: walks.step(a.numpy()))
        with an.record() as trace:
            a = Bernoulli(logits=theta).sample()
        an.backward(step(a)[1].sum(), baseline=None)
        assert trace.escapes == ()
        return gradients([theta])

    def by_hand(theta: Tensor) -> Tensor:
        fn = Bernoulli(logits=theta)
        a = fn.sample()
        rewards = torch.from_numpy(Walks().step(a.numpy())[1])
        return (fn.log_prob(a) * rewards).sum()

    found = moments(
        lambda t: program(t, lambda a: list(map(torch.tensor, Walks().step(a.numpy())))),
        [THETA],
        estimate,
    )
    expected = moments_of(*estimates(by_hand, [THETA], autograd))
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.variance, expected.variance)


# CartPole of Barto, Sutton and Anderson (1983), many at once, with the numbers of gymnasium.


class CartPoles:
    """Carts with poles on them; one whose pole has fallen begins anew, with its own generator."""

    def __init__(self, count: int, seed: int) -> None:
        seeds = np.random.SeedSequence(seed).spawn(count)
        self.generators = [np.random.default_rng(each) for each in seeds]
        self.state = np.stack([self._start(n) for n in range(count)])

    def _start(self, n: int) -> np.ndarray:
        return self.generators[n].uniform(-0.05, 0.05, 4)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Push each to the left or right: the state, and 1 where the pole has not fallen."""
        _, v, angle, speed = self.state.T
        force = np.where(action > 0.5, 10.0, -10.0)
        cos, sin = np.cos(angle), np.sin(angle)
        push = (force + 0.05 * speed**2 * sin) / 1.1
        turn = (9.8 * sin - cos * push) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
        move = push - 0.05 * turn * cos / 1.1
        self.state = self.state + 0.02 * np.stack([v, move, speed, turn], 1)
        fallen = (abs(self.state[:, 0]) > 2.4) | (abs(self.state[:, 2]) > 0.2095)
        for n in np.flatnonzero(fallen).tolist():
            self.state[n] = self._start(n)
        return self.state, 1.0 - fallen


def balance(
    weight: Tensor, step: Callable[[Tensor], Any], first: np.ndarray, horizon: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the log-probabilities of the actions, and the rewards, of each step."""
    state = torch.from_numpy(first.copy())
    scores, rewards = list[Tensor](), list[Tensor]()
    for _ in range(horizon):
        fn = Bernoulli(logits=state @ weight)
        action = fn.sample()
        scores.append(fn.log_prob(action))
        state, reward = step(action)
        rewards.append(reward)
    return scores, rewards


def test_eight_cart_poles_reach_the_variance_of_reward_to_go_by_hand() -> None:
    """Draw by draw, the gradient is that of the estimator written for each environment."""
    start = torch.tensor([0.1, 0.2, 1.0, 0.5], dtype=torch.float64)
    ours, theirs, looked = list[Any](), list[Any](), list[Any]()
    for seed in range(12):
        weight = start.clone().requires_grad_()
        torch.manual_seed(seed)
        poles = CartPoles(8, seed)
        step = an.external(lambda a, poles=poles: poles.step(a.numpy()), check=seed == 0)
        with an.record(control="after") as trace:
            _, rewards = balance(weight, step, poles.state, 30)
            loss = -torch.stack(rewards).sum()
        an.backward(loss, baseline=None)
        assert trace.escapes == ()
        ours.append(weight.grad)

        weight = start.clone().requires_grad_()
        torch.manual_seed(seed)
        poles = CartPoles(8, seed)
        plain = lambda a, poles=poles: tuple(map(torch.tensor, poles.step(a.numpy())))  # noqa: E731
        scores, rewards = balance(weight, plain, poles.state, 30)
        to_go = torch.stack(rewards).flip(0).cumsum(0).flip(0)
        (-(torch.stack(scores) * to_go).sum()).backward()
        theirs.append(weight.grad)

        weight = start.clone().requires_grad_()
        torch.manual_seed(seed)
        poles = CartPoles(8, seed)
        plain = lambda a, poles=poles: tuple(map(torch.tensor, poles.step(a.numpy())))  # noqa: E731
        with an.record(control="after"):
            _, rewards = balance(weight, plain, poles.state, 30)
            loss = -torch.stack(rewards).sum()
        with pytest.warns(an.errors.BlurredCreditWarning, match=r"an.external\(function\)"):
            an.backward(loss, baseline=None)
        looked.append(weight.grad)
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs))
    variances = [torch.stack(each).var(0).sum() for each in (ours, looked)]
    assert variances[1] > 20 * variances[0]
