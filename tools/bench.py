"""Benchmarks: what tracking and the estimator cost, beside plain torch and Pyro in one process.

Every figure is a ratio to plain torch, from interleaved rounds of which the fastest counts.
``make bench`` prints the table; a row whose figure misses its bound says so.
"""

import math
import sys
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name that torch users read)
from torch import Tensor, nn
from torch.distributions import Bernoulli

from ancestral.estimators.surrogate import backward
from ancestral.provenance.algebra import Source, Universe
from ancestral.provenance.tensor import alias, attach
from ancestral.tools.belief_net import BeliefNet
from ancestral.tools.demo import gradient_variance
from ancestral.tools.digits import load
from ancestral.tools.variance import folds
from ancestral.trace.record import record

Step = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure, and the bound that it must keep."""

    name: str
    figure: float
    bound: float | None = None

    def cells(self) -> tuple[str, str, str]:
        """Return the cells of the line."""
        if self.bound is None:
            return self.name, f"{self.figure:.3g}", ""
        kept = "" if self.figure <= self.bound else "  MISSED"
        return self.name, f"{self.figure:.3g}", f"at most {self.bound:.3g}{kept}"


def ratios(steps: Sequence[Step], number: int, rounds: int = 15) -> list[float]:
    """Return the times of the steps as ratios to the first, the fastest of interleaved rounds."""
    best = [math.inf] * len(steps)
    for step in steps:
        step()
    for _ in range(rounds):
        for index, step in enumerate(steps):
            best[index] = min(best[index], timeit.timeit(step, number=number))
    return [time / best[0] for time in best]


def tracked_pair() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return two plain tensors of ten floats, and two that depend on different sources."""
    x, y = torch.randn(10), torch.randn(10)
    universe = Universe()
    p, q = (universe.of(Source(name, (10,)), (10,)) for name in "pq")
    return x, y, attach(alias(x), p), attach(alias(y), q)


def op_rows() -> list[Row]:
    """Measure single ops, within a recording as a model runs them."""
    x, y, tracked_x, tracked_y = tracked_pair()
    with record():
        _, operator = ratios([lambda: x + y, lambda: tracked_x + tracked_y], 20_000)
        _, function = ratios(
            [lambda: torch.add(x, y), lambda: torch.add(tracked_x, tracked_y)], 20_000
        )
    return [
        Row("x + y of 10 floats, tracked", operator, 2.5),
        Row("torch.add(x, y) of 10 floats, tracked", function, 4.0),
        Row("x + y of 10 floats, untracked, within a recording", untracked_within(x, y), 1.03),
        *pyro_op_rows(x, y),
    ]


def untracked_within(x: Tensor, y: Tensor) -> float:
    """Return what an addition of plain tensors costs within a recording, as a ratio."""
    inside = outside = math.inf
    for _ in range(200):  # a few percent are seen in many short rounds only
        outside = min(outside, timeit.timeit(lambda: x + y, number=5_000))
        with record():
            inside = min(inside, timeit.timeit(lambda: x + y, number=5_000))
    return inside / outside


def pyro_op_rows(x: Tensor, y: Tensor) -> list[Row]:
    """Measure the same op on Pyro's provenance tensor."""
    from pyro.ops.provenance import track_provenance

    a, b = track_provenance(x, frozenset("p")), track_provenance(y, frozenset("q"))
    return [
        Row("  the same, Pyro's ProvenanceTensor", ratios([lambda: x + y, lambda: a + b], 2_000)[1])
    ]


def mlp_rows() -> list[Row]:
    """Measure a step of a network whose input is tracked."""
    layers = [nn.Linear(784, 200), nn.Linear(200, 200), nn.Linear(200, 10)]
    model = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    x, target = torch.randn(64, 784), torch.randint(10, (64,))
    tracked = attach(alias(x), Universe().of(Source("x", (64, 784)), (64, 784)))

    def step(given: Tensor) -> None:
        F.cross_entropy(model(given), target).backward()

    figures = ratios([lambda: step(x), lambda: step(tracked)], 5, rounds=60)
    return [Row("MLP 784-200-200-10 at batch 64, forward and backward", figures[1], 1.1)]


class Chain:
    """A chain of coins, z_t ~ Bernoulli(sigmoid(a + b z_{t-1})), with a cost for each."""

    def __init__(self, length: int) -> None:
        """Make a chain of this length."""
        self.length = length
        self.weights = torch.tensor([0.3, -0.2], requires_grad=True)

    def reinforce(self) -> None:
        """Take a step of REINFORCE written by hand in plain torch: every score, the whole cost."""
        z, scores, costs = torch.zeros(()), [], []
        for _ in range(self.length):
            q = Bernoulli(logits=self.weights[0] + self.weights[1] * z)
            z = q.sample()
            scores.append(q.log_prob(z))
            costs.append((z - 0.45) ** 2)
        total = sum(costs, torch.zeros(()))
        (total + total.detach() * sum(scores)).backward()

    def model(self) -> Tensor:
        """Return the loss of one run, in plain torch."""
        z = loss = torch.zeros(())
        for _ in range(self.length):
            z = Bernoulli(logits=self.weights[0] + self.weights[1] * z).sample()
            loss = loss + (z - 0.45) ** 2
        return loss

    def ancestral(self) -> None:
        """Take a step with element-wise downstream costs."""
        with record():
            loss = self.model()
        backward(loss)


def pyro_chain(length: int) -> Step:
    """Return a step of Pyro's TraceGraph_ELBO on the same chain, the costs as factors."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import TraceGraph_ELBO

    weights = torch.tensor([0.3, -0.2], requires_grad=True)

    def guide() -> None:
        z = torch.zeros(())
        for t in range(length):
            z = pyro.sample(
                f"z{t}",
                dist.Bernoulli(logits=weights[0] + weights[1] * z),
                infer={"is_auxiliary": True},
            )

    def model() -> None:
        for t in range(length):
            z = pyro.sample(f"z{t}", dist.Bernoulli(0.5))
            pyro.factor(f"c{t}", -((z - 0.45) ** 2))

    elbo = TraceGraph_ELBO()

    def step() -> None:
        pyro.clear_param_store()
        elbo.loss_and_grads(model, guide)

    return step


def chain_rows() -> list[Row]:
    """Measure a step on chains: beside plain torch and Pyro, and how it grows."""
    chain = Chain(80)
    ours = ratios([chain.reinforce, chain.ancestral], 1, rounds=30)[1]
    theirs = ratios([chain.reinforce, pyro_chain(80)], 1, rounds=3)[1]
    lengths = [200, 400, 800, 1600]
    times = [min(timeit.repeat(Chain(length).ancestral, number=1, repeat=7)) for length in lengths]
    return [
        Row("chain of 80 sites with a cost each, one step", ours, 6.0),
        Row("  the same, Pyro's TraceGraph_ELBO", theirs),
        Row("exponent of growth, 200 to 1,600 sites", exponent(lengths, times), 1.2),
    ]


def exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Return the slope of log time over log size, by least squares.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    xs, ys = [math.log(size) for size in sizes], [math.log(time) for time in times]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return above / sum((a - x) ** 2 for a in xs)


def belief_net_rows() -> list[Row]:
    """Measure by what part the total gradient variance of the fresh belief net falls."""
    torch.manual_seed(0)
    model = BeliefNet()
    images = load().train[:64]
    rows = gradient_variance(model, images, 500, 0, lambda: None)
    fall = folds(rows, "a")
    return [
        Row("belief net at batch 64, variance (c) / REINFORCE's", 1 / fall["c", "total"], 1 / 30),
        Row("  with the leave-one-out baseline as well, (d)", 1 / fall["d", "total"]),
    ]


def main() -> int:
    """Print the table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print("Each figure is a ratio to plain torch in this process, unless it says otherwise.")
    rows = [*op_rows(), *mlp_rows(), *chain_rows(), *belief_net_rows()]
    width = max(len(row.name) for row in rows)
    for row in rows:
        name, figure, bound = row.cells()
        print(f"{name.ljust(width)}  {figure.rjust(9)}  {bound}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
