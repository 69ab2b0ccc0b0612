"""Ranks: a step on two processes to one on the same batch, and what their exchange costs.

    python examples/ranks/scaling.py

The processes take turns with each kind of step; a figure is of the slower rank, the median of its
steps and the fastest. Kinds of steps on as many processes are measured within one run, and can be
compared on a busy machine too; one process and two are not, and there a line says so.
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
    results.put({name: (median(each[2:]), min(each[2:])) for name, each in seconds.items()})
    dist.barrier()
    dist.destroy_process_group()


def measured(world: int) -> dict[str, tuple[float, float]]:
    """Return the seconds of each kind of step on some processes, median and least, the slowest."""
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
    return {
        name: (max(each[name][0] for each in found), max(each[name][1] for each in found))
        for name in found[0]
    }


def _ratio(step: tuple[float, float], other: tuple[float, float]) -> str:
    return f"{step[0] / other[0]:.2f} (of the fastest steps {step[1] / other[1]:.2f})"


def main() -> None:
    """Print the figures."""
    before, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    one, two = measured(1), measured(2)
    print(f"batch {BATCH} in all, {PIXELS}-{UNITS}-{PIXELS}, gloo, one thread a process")
    for world, found in ((1, one), (2, two)):
        step, least = (1e3 * each for each in found["averaged"])
        print(f"a step on {world}: {step:.1f} ms, at least {least:.1f} ms")
    print(f"a step on two to one: {_ratio(two['averaged'], one['averaged'])}; 0.50 would be ideal")
    print(f"with the average of the gradients to without: {_ratio(two['averaged'], two['alone'])}")
    print(f"AcrossRanks to a baseline of each rank: {_ratio(two['across'], two['averaged'])}")
    if before > 0.5 or cores < 2:
        print(
            f"NOTE: {cores} cores had {before:.1f} other processes at work, which wait for each "
            "other: two processes to one tells nothing here; run it again on an idle machine"
        )


if __name__ == "__main__":
    main()
