"""Ranks: a step on two processes to one on the same batch, and what their exchange costs.

    python examples/ranks/scaling.py

The processes take turns with each kind of step; the figure is the median of the slower rank.
"""

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.distributions import Bernoulli
from torch.nn.parallel import DistributedDataParallel

import ancestral as an

BATCH, PIXELS, UNITS, ROUNDS = 256, 784, 400, 15
_Step = Callable[[], None]


class Net(nn.Module):
    """One layer of coins between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(PIXELS, UNITS), nn.Linear(UNITS, PIXELS)

    def forward(self, x: Tensor) -> Any:
        """Return the error of each example, [batch]."""
        return (self.down(Bernoulli(logits=self.up(x)).sample()) - x).square().sum(1)


def _step(module: nn.Module, x: Tensor, baseline: Any, *, is_synchronized: bool = True) -> None:
    around: Any = nullcontext() if is_synchronized else module.no_sync()  # type: ignore[operator]
    with around:
        with an.record():
            loss = module(x).mean()
        an.backward(loss, baseline=baseline)


def _kinds(world: int) -> dict[str, _Step]:
    torch.manual_seed(0)
    net = Net()
    torch.manual_seed(1 + dist.get_rank())
    x = torch.rand(BATCH // world, PIXELS)
    parallel = DistributedDataParallel(net)
    own = an.estimators.LeaveOneOut()
    across = an.estimators.AcrossRanks(own)
    return {
        "alone": lambda: _step(parallel, x, own, is_synchronized=False),
        "averaged": lambda: _step(parallel, x, own),
        "across": lambda: _step(parallel, x, across),
    }


def _rank(rank: int, world: int, path: str, results: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=world)
    kinds = _kinds(world)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(ROUNDS + 2):
        for name, step in kinds.items():
            dist.barrier()
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    results.put({name: median(each[2:]) for name, each in seconds.items()})
    dist.barrier()
    dist.destroy_process_group()


def measured(world: int) -> dict[str, float]:
    """Return the seconds of each kind of step on some processes, the slowest of them."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with tempfile.TemporaryDirectory() as folder:
        arguments = [(rank, world, os.path.join(folder, "ranks"), results) for rank in range(world)]
        ranks = [context.Process(target=_rank, args=each) for each in arguments]
        for each in ranks:
            each.start()
        found = [results.get() for _ in ranks]
        for each in ranks:
            each.join()
    return {name: max(each[name] for each in found) for name in found[0]}


def main() -> None:
    """Print the figures."""
    one, two = measured(1), measured(2)
    whole, exchange = two["averaged"] / one["averaged"], 1 - two["alone"] / two["averaged"]
    print(f"batch {BATCH} in all, {PIXELS}-{UNITS}-{PIXELS}, gloo, one thread a process")
    print(f"two processes to one, a whole step: {whole:.2f} of its time")
    print(f"the average of the gradients: {exchange:.0%} of a step on two")
    print(f"AcrossRanks to a baseline of each rank: {two['across'] / two['averaged']:.2f}")


if __name__ == "__main__":
    main()
