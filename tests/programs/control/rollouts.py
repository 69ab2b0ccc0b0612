"""Rollouts: an environment in Python, which looks at the actions and may end.

Each of `BY_HAND` weighs every action with the rewards that come after it.
"""

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical

from oracles import Program
from programs.control.register import coin, control, num
from programs.example import weigh

BY_HAND: dict[str, Program] = {}


def returns_by_hand(steps: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the surrogate of a rollout: each log-probability times the reward to go."""
    total = num(0.0)
    for at, (log_prob, reward) in enumerate(steps):
        to_go = sum((later for _, later in steps[at:]), num(0.0))
        total = total + weigh(log_prob, to_go) + reward
    return total


def walk(theta: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Walk left or right from the middle of a line until an end is reached, or time is up."""
    place, steps = 0, []
    for k in range(4):
        policy = Bernoulli(logits=theta[0] + theta[1] * place)
        action = policy.sample()
        place += 1 if action.item() else -1
        reward = num(0.5 * place - 0.1 * k) + action * 0.3
        steps.append((policy.log_prob(action), reward))
        if abs(place) == 2:
            break
    return steps


@control()
def a_walk(theta: Tensor) -> Tensor:
    return sum((reward for _, reward in walk(theta)), num(0.0))


BY_HAND["a_walk"] = lambda theta: returns_by_hand(walk(theta))


def patience(theta: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Go on while the coin says so; each step costs, the last one pays."""
    steps = []
    for k in range(4):
        policy = Bernoulli(logits=theta[k % 2])
        action = policy.sample()
        is_over = action.item() == 0
        steps.append((policy.log_prob(action), num(1.5 if k == 3 else -0.2) - action))
        if is_over:
            break
    return steps


@control()
def a_rollout_with_patience(theta: Tensor) -> Tensor:
    loss = theta.new_zeros(())
    for _, reward in patience(theta):
        loss = loss + reward
    return loss


BY_HAND["a_rollout_with_patience"] = lambda theta: returns_by_hand(patience(theta))


def three_armed(theta: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Play three arms; the third ends the game."""
    steps, score = [], 0.0
    for _ in range(3):
        policy = Categorical(logits=torch.cat([theta, theta.new_zeros(1)]))
        action = policy.sample()
        arm = int(action)
        score += (0.4, -0.3, 1.1)[arm]
        steps.append((policy.log_prob(action), num(score)))
        if arm == 2:
            break
    return steps


@control()
def a_bandit(theta: Tensor) -> Tensor:
    rewards = [reward for _, reward in three_armed(theta)]
    return torch.stack(rewards).sum()


BY_HAND["a_bandit"] = lambda theta: returns_by_hand(three_armed(theta))


@control()
def a_rollout_in_an_environment(theta: Tensor) -> Tensor:
    class Line:
        def __init__(self) -> None:
            self.place, self.is_over = 1.0, False

        def step(self, action: float) -> float:
            self.place += action - 0.6
            self.is_over = self.place > 1.5
            return self.place

    line, loss = Line(), num(0.0)
    while not line.is_over and len(str(line.place)) < 9:
        loss = loss + line.step(coin(theta[0] * line.place).item()) + 0 * theta[1]
        if line.place < 0:
            break
    return loss


@control()
def a_discounted_return_of_python(theta: Tensor) -> Tensor:
    """The discount is a product of numbers that the draws decide."""
    loss, discount = num(0.0), 1.0
    for k in range(3):
        z = coin(theta[k % 2])
        loss = loss + discount * (z + 0.2)
        discount *= 0.5 if z else 0.9
    return loss


@control()
def a_policy_of_two_levels(theta: Tensor) -> Tensor:
    loss = num(0.0)
    if coin(theta[0]):
        for k in range(2):
            loss = loss + coin(theta[1] * (k + 1)) * (k + 0.5)
    else:
        loss = loss + (coin(theta[1]) - 0.7) ** 2
    return loss


@control()
def a_search(theta: Tensor) -> Tensor:
    """Draw until two draws in a row agree."""
    last, tries = -1.0, 0
    while tries < 4:
        now = coin(theta[tries % 2]).item()
        tries += 1
        if now == last:
            break
        last = now
    return num(1.0) * tries**2 + last * theta[1]


@control(is_regardless=False)
def the_reward_of_the_last_step_alone(theta: Tensor) -> Tensor:
    rewards = []
    for k in range(3):
        z = coin(theta[k % 2])
        rewards.append(z * (k + 1) + 0.3)
        if z > 0:
            break
    return rewards[-1]


@control()
def a_value_of_a_table(theta: Tensor) -> Tensor:
    table = torch.zeros(2, 2, dtype=torch.float64)
    place = 0
    for k in range(3):
        following = int(coin(theta[place]))
        table[place, following] += 1.0 + k
        place = following
    return (table * torch.tensor([[0.4, -1.0], [0.8, 0.1]], dtype=torch.float64)).sum()
