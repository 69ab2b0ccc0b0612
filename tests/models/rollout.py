"""A policy that is rolled out in plain torch: a recurrent net walks a batch of gridworlds."""

# torch.distributions has no annotations, and a plain model should not have to say so in each line.
# mypy: allow-untyped-calls

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical

from models.reference import PerExample, Reference, Setting

SLIP = 0.1
"""How likely a step has no effect."""


class Gridworld(nn.Module):
    """A walk on a square board; every step costs the distance to the goal that is left."""

    moves: Tensor  # [moves, 2]

    def __init__(self, size: int, moves: int = 4) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("moves", torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]])[:moves])

    def forward(self, position: Tensor, action: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next positions, [batch, 2], and what the steps cost, [batch]."""
        slips = Bernoulli(torch.full((len(position), 1), SLIP)).sample().bool()
        moved = torch.where(slips, position, position + self.moves[action])
        position = moved.clamp(0, self.size - 1)
        return position, (position - goal).abs().sum(1).float()


class Policy(nn.Module):
    """A recurrent policy."""

    def __init__(self, size: int = 5, moves: int = 4, steps: int = 20, hidden: int = 16) -> None:
        super().__init__()
        self.steps, self.hidden = steps, hidden
        self.world = Gridworld(size, moves)
        self.cell = nn.GRUCell(4, hidden)
        self.act = nn.Linear(hidden, moves)

    def see(self, position: Tensor, goal: Tensor) -> Tensor:
        """Return what the policy sees, [batch, 4], from -1 to 1."""
        seen = torch.cat([position, goal], 1).to(self.act.weight.dtype)
        return 2 * seen / (self.world.size - 1) - 1

    def forward(self, start: Tensor, goal: Tensor) -> Tensor:
        """Return what a walk costs, the mean over the batch.

        Args:
            start: the positions to start from, [batch, 2].
            goal: the positions to reach, [batch, 2].
        """
        position, h = start, torch.zeros(len(start), self.hidden, dtype=self.act.weight.dtype)
        costs = []
        for _ in range(self.steps):
            h = self.cell(self.see(position, goal), h)
            action = Categorical(logits=self.act(h)).sample()
            position, cost = self.world(position, action, goal)
            costs.append(cost)
        return torch.stack(costs).sum(0).mean()


def by_hand(model: Policy, start: Tensor, goal: Tensor) -> Tensor:
    """Return the surrogate: an action changes what its own walk costs from there on."""
    position, h = start, torch.zeros(len(start), model.hidden, dtype=model.act.weight.dtype)
    log_probs, costs = [], []
    for _ in range(model.steps):
        h = model.cell(model.see(position, goal), h)
        q = Categorical(logits=model.act(h))
        action = q.sample()
        position, cost = model.world(position, action, goal)
        log_probs.append(q.log_prob(action))
        costs.append(cost)
    to_go = torch.stack(costs).flip(0).cumsum(0).flip(0)
    return (torch.stack(log_probs) * to_go).sum(0).mean()


def per_example(model: Policy, start: Tensor, goal: Tensor) -> PerExample:
    """Return the cost of each walk, and log q of its actions."""
    position, h = start, torch.zeros(len(start), model.hidden, dtype=model.act.weight.dtype)
    walk, log_q = torch.zeros(len(start)), torch.zeros(len(start))
    for _ in range(model.steps):
        h = model.cell(model.see(position, goal), h)
        q = Categorical(logits=model.act(h))
        action = q.sample()
        position, cost = model.world(position, action, goal)
        walk, log_q = walk + cost, log_q + q.log_prob(action)
    return walk, log_q


def boards(count: int, size: int = 5) -> tuple[Tensor, Tensor]:
    """Return starts and goals, spread over the board."""
    cells = torch.arange(count) * 7 % size**2
    start = torch.stack([cells // size, cells % size], 1)
    return start, start.flip(1).roll(1, 0)


REFERENCE = Reference(
    "recurrent policy, 16 walks of 8 steps",
    by_hand,
    per_example,
    learned=("act", "cell"),
    usual=lambda: Setting(Policy(steps=8), boards(16)),
    tiny=lambda: Setting(Policy(size=3, moves=2, steps=2, hidden=3), boards(2, size=3)),
)
