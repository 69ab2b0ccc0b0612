"""Benchmarks of steps: a loss and its gradient, beside the estimator that one would write by hand.

    python -m ancestral.tools.bench.steps

Both draw the same values in the same order and weigh the score of each draw with the same costs, so
that what differs is the library. They run in turns in one process; a figure is the ratio of the
fastest rounds, or of those in the middle.

>>> model = Chain(3)
>>> model.ours(), model.theirs()
(None, None)
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical

from ancestral.estimators.gradient.surrogate import backward
from ancestral.tools.bench.rows import Row, Step
from ancestral.tools.demo.belief_net import BeliefNet
from ancestral.trace.recording.record import record


class Model:
    """A loss in plain torch, and its surrogate by hand; neither has a baseline."""

    def loss(self) -> Tensor:
        """Return the loss of one run, []."""
        raise NotImplementedError

    def by_hand(self) -> Tensor:
        """Return the surrogate of one run, []."""
        raise NotImplementedError

    def ours(self) -> None:
        """Take a step by this library."""
        with record():
            loss = self.loss()
        backward(loss, baseline=None)

    def theirs(self) -> None:
        """Take a step of the estimator by hand."""
        self.by_hand().backward()


class Vector(Model):
    """A vector of 64 coins with a cost for each."""

    def __init__(self) -> None:
        self.logits = torch.zeros(64, requires_grad=True)

    def loss(self) -> Tensor:
        """Return the sum of the costs."""
        z = Bernoulli(logits=self.logits).sample()
        found: Tensor = (z - 0.45).pow(2).sum()
        return found

    def by_hand(self) -> Tensor:
        """Weigh the score of each coin with its own cost."""
        q = Bernoulli(logits=self.logits)
        z = q.sample()
        costs = (z - 0.45).pow(2)
        found: Tensor = (q.log_prob(z) * costs).sum() + costs.sum()
        return found


class SigmoidBeliefNet(Model):
    """The belief net of the demo, 64-32-16, and its negative bound."""

    def __init__(self, batch: int = 64) -> None:
        self.net = BeliefNet()
        self.x = torch.bernoulli(torch.full((batch, 64), 0.4))

    def loss(self) -> Tensor:
        """Return the negative bound."""
        found: Tensor = self.net(self.x)
        return found

    def by_hand(self) -> Tensor:
        """Weigh the score of each unit with what is downstream of it in its own example."""
        net, x = self.net, self.x
        q1 = Bernoulli(logits=net.infer_h1(x))
        h1 = q1.sample()
        q2 = Bernoulli(logits=net.infer_h2(h1))
        h2 = q2.sample()
        log_q1, log_q2 = q1.log_prob(h1), q2.log_prob(h2)
        log_p2 = Bernoulli(logits=net.prior_h2).log_prob(h2)
        log_p1 = Bernoulli(logits=net.generate_h1(h2)).log_prob(h1)
        log_px = Bernoulli(logits=net.generate_x(h1)).log_prob(x)
        with torch.no_grad():
            below = -log_p1.sum(1, keepdim=True)
            cost2 = log_q2 - log_p2 + below
            cost1 = log_q1 + below + (log_q2 - log_p2).sum(1, keepdim=True)
            cost1 = cost1 - log_px.sum(1, keepdim=True)
        scores = (log_q1 * cost1).sum(1) + (log_q2 * cost2).sum(1)
        total: Tensor = scores - log_p2.sum(1) - log_p1.sum(1) - log_px.sum(1)
        return total.mean()


class CategoricalVAE(Model):
    """An autoencoder with 20 variables of 10 classes, dense on both sides."""

    def __init__(self, batch: int = 64, variables: int = 20, classes: int = 10) -> None:
        self.variables, self.classes = variables, classes
        size, width = variables * classes, 128
        self.encoder = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, size))
        self.decoder = nn.Sequential(nn.Linear(size, width), nn.ReLU(), nn.Linear(width, 64))
        self.x = torch.bernoulli(torch.full((batch, 64), 0.4))
        self.prior = torch.zeros(classes)

    def _run(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return log q(z | x) and log p(z), [batch, variables], and log p(x | z), [batch, 64]."""
        logits = self.encoder(self.x).reshape(-1, self.variables, self.classes)
        q = Categorical(logits=logits)
        z = q.sample()
        one_hot = F.one_hot(z, self.classes).to(self.x.dtype).reshape(len(self.x), -1)
        of_x = Bernoulli(logits=self.decoder(one_hot)).log_prob(self.x)
        return q.log_prob(z), Categorical(logits=self.prior).log_prob(z), of_x

    def loss(self) -> Tensor:
        """Return the negative bound."""
        log_q, log_p, log_px = self._run()
        return (log_q.sum(-1) - log_p.sum(-1) - log_px.sum(-1)).mean()

    def by_hand(self) -> Tensor:
        """Weigh the score of each variable with the reconstruction of its image, and its own."""
        log_q, log_p, log_px = self._run()
        nll = -log_px.sum(-1)
        with torch.no_grad():
            costs = log_q - log_p + nll[:, None]
        return ((log_q * costs).sum(-1) + nll).mean()


class Chain(Model):
    """A chain of coins, one or a batch of them, with a cost at each."""

    def __init__(self, length: int = 80, batch: tuple[int, ...] = ()) -> None:
        self.length = length
        self.first = torch.zeros(batch)
        self.weights = torch.tensor([0.3, -0.2], requires_grad=True)

    def loss(self) -> Tensor:
        """Return the sum of the costs."""
        z, loss = self.first, torch.zeros(())
        for _ in range(self.length):
            z = Bernoulli(logits=self.weights[0] + self.weights[1] * z).sample()
            loss = loss + ((z - 0.45) ** 2).mean()
        return loss

    def by_hand(self) -> Tensor:
        """Weigh the score of each draw with the costs that come after it."""
        z, scores, costs = self.first, list[Tensor](), list[Tensor]()
        for _ in range(self.length):
            q = Bernoulli(logits=self.weights[0] + self.weights[1] * z)
            z = q.sample()
            scores.append(q.log_prob(z))
            costs.append((z - 0.45) ** 2)
        cost, score = torch.stack(costs) / max(1, z.numel()), torch.stack(scores)
        return cost.sum() + (score * cost.flip(0).cumsum(0).flip(0)).sum()


MODELS: dict[str, tuple[Callable[[], Model], float, int]] = {
    "one vector site": (Vector, 2.0, 40),
    "belief net at batch 64": (SigmoidBeliefNet, 1.8, 20),
    "Categorical VAE at batch 64": (CategoricalVAE, 1.5, 10),
    "chain of 80": (Chain, 1.8, 2),
    "chain of 80 at batch 64": (lambda: Chain(batch=(64,)), 1.8, 2),
}
"""How each is made, the bound of its ratio, and how many steps make a round."""


class Times(NamedTuple):
    """Seconds of one step in rounds."""

    least: float
    median: float


def times(steps: Sequence[Step], number: int, rounds: int) -> list[Times]:
    """Return the seconds of steps, run in turns."""
    found: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for _ in range(rounds):
        for index, step in enumerate(steps):
            start = time.process_time()  # what others do on the machine does not count
            for _ in range(number):
                step()
            found[index].append((time.process_time() - start) / number)
    return [Times(min(each), statistics.median(each)) for each in found]


def step_rows(rounds: int = 25) -> list[Row]:
    """Measure a step of each model, as a ratio to the estimator by hand."""
    rows: list[Row] = []
    for words, (make, bound, number) in MODELS.items():
        model = make()
        theirs, ours = times([model.theirs, model.ours], number, rounds)
        rows.append(Row(f"step of {words}, to the estimator by hand", ours[0] / theirs[0], bound))
        rows.append(Row("  the same, of the median rounds", ours[1] / theirs[1], bound))
        rows.append(Row("  milliseconds by hand", 1e3 * theirs[0]))
    return rows


_WEIGHTS = torch.ones(2, 3)
FIRST_CALLS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch.where(z > 0, z, y)": lambda z: torch.where(z > 0, z, 1.0),
    "F.linear(z, w)": lambda z: F.linear(z, _WEIGHTS),
    "torch.cat([z, z], 1)": lambda z: torch.cat([z, z], 1),
    "z.sum(0)": lambda z: z.sum(0),
    "z.reshape(-1)": lambda z: z.reshape(-1),
    "z.log_softmax(1)": lambda z: z.log_softmax(1),
}


def first_rows(rounds: int = 300) -> list[Row]:
    """Measure the first call of ops in a recording that were called in an earlier one."""
    rows: list[Row] = []
    coin, plain = Bernoulli(logits=torch.zeros(4, 3)), torch.ones(4, 3)
    for words, call in FIRST_CALLS.items():
        ours, theirs = list[float](), list[float]()
        for _ in range(rounds):
            with record():
                z = coin.sample()
                ours.append(_seconds(call, z))
            theirs.append(_seconds(call, plain))
        rows.append(Row(f"first {words} of a recording, tracked", min(ours) / min(theirs)))
    return rows


def _seconds(call: Callable[[Tensor], Tensor], given: Tensor) -> float:
    start = time.perf_counter()
    call(given)
    return time.perf_counter() - start


def main() -> None:
    """Print the rows."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for row in (*first_rows(), *step_rows()):
        name, figure, bound = row.cells()
        print(f"{name:60s} {figure:>9s}  {bound}".rstrip())


if __name__ == "__main__":
    main()
