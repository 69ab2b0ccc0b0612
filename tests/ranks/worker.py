"""What each rank of a process group does: compare its gradient with one process on all examples.

Run by `test_ranks.py` with torchrun; prints a line for each check that it passed.
"""

import copy
import datetime
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.nn.parallel import DistributedDataParallel

import ancestral as an

STEPS = 3
X = torch.linspace(-1, 1, 32 * 3, dtype=torch.float64).sin().reshape(32, 3)


class Net(nn.Module):
    """Two layers of coins, and costs of each example."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(3, 4).double(), nn.Linear(4, 3).double()

    def forward(self, x: Tensor) -> Any:
        z = Bernoulli(logits=self.up(x)).sample()
        return (self.down(z) - x).square().sum(1) + 3 * x[:, 0] + 0.2 * z.sum(1)


def said(name: str) -> None:
    sys.stdout.write(f"ok {name}\n")  # at once: ranks write into one stream
    sys.stdout.flush()


def net() -> Net:
    torch.manual_seed(0)
    return Net()


@contextmanager
def drawing(model: Net, x: Tensor, first: int, seed: int) -> Iterator[None]:
    """Draw, within the block, what one process draws for the examples from `first` on."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with torch.no_grad():
            torch.bernoulli(model.up(x[:first]).sigmoid())
        yield


def own(sizes: list[int], rank: int) -> slice:
    return slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))


Baseline = Callable[[], Any]


def network() -> Any:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    return an.estimators.Neural(net=net)


BASELINES: dict[str, Baseline] = {
    "leave-one-out": an.estimators.LeaveOneOut,
    "leave-one-out along 0": lambda: an.estimators.LeaveOneOut(0),
    "running mean": an.estimators.RunningMean,
    "optimal": an.estimators.Optimal,
    "neural": network,
}


def compare(
    name: str, sizes: list[int], baseline: Baseline, group: dist.ProcessGroup | None = None
) -> None:
    """Take steps on all ranks of a group, and the same steps in one process."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    count = sum(sizes)
    x, mine = X[:count], own(sizes, rank)
    alone = net()
    single = copy.deepcopy(alone)
    parallel = DistributedDataParallel(alone, process_group=group)
    ours, theirs = an.estimators.AcrossRanks(baseline(), group), baseline()
    for step in range(STEPS):
        for each in (alone, single):
            each.zero_grad()
        with drawing(alone, x, mine.start, step), an.record():
            loss = parallel(x[mine]).sum() * world / count
        an.backward(loss, baseline=ours)
        with drawing(single, x, 0, step), an.record():
            loss = single(x).mean()
        an.backward(loss, baseline=theirs)
        for found, expected in zip(alone.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-9)
        for each in (alone, single):
            with torch.no_grad():
                for parameter in each.parameters():
                    assert parameter.grad is not None
                    parameter.sub_(0.05 * parameter.grad)
    said(name)


def accumulate() -> None:
    """Add up the gradients of two halves, of which the first is not synchronized."""
    rank, world = dist.get_rank(), dist.get_world_size()
    model, single, sizes = net(), net(), [2] * (2 * world)
    parallel = DistributedDataParallel(model)
    baseline = an.estimators.AcrossRanks(an.estimators.LeaveOneOut())
    for half in range(2):
        x = X[half * 2 * world : (half + 1) * 2 * world]
        mine = own(sizes[:world], rank)
        with parallel.no_sync() if half == 0 else drawing(model, x, 0, 0):
            with drawing(model, x, mine.start, half), an.record():
                loss = parallel(x[mine]).mean() / 2
            an.backward(loss, baseline=baseline)
        with drawing(single, x, 0, half), an.record():
            loss = single(x).mean() / 2
        an.backward(loss, baseline=an.estimators.LeaveOneOut())
    for found, expected in zip(model.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-6, atol=1e-9)
    said("accumulation without synchronization")


def orders() -> None:
    """Wrap, record and parallelize in every order."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x, sizes = X[: 4 * world], [4] * world
    mine, grads = own(sizes, rank), []
    for name in ("record", "wrap outside", "wrap inside"):
        model = net()
        baseline = an.estimators.AcrossRanks(an.estimators.LeaveOneOut())
        module: Any = an.wrap(model) if name == "wrap inside" else model
        module = DistributedDataParallel(module)
        module = an.wrap(module) if name == "wrap outside" else module
        with drawing(model, x, mine.start, 0):
            if name == "record":
                with an.record():
                    loss = module(x[mine]).mean()
            else:
                loss = module(x[mine]).mean()
        an.backward(loss, baseline=baseline)
        grads.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(grads[0], grads[1])
    torch.testing.assert_close(grads[0], grads[2])
    said("orders of wrapping")


def refusals() -> None:
    """Refuse equal seeds, and ranks that have different models."""
    rank = dist.get_rank()
    for same_seed in (True, False):
        model = net()
        torch.manual_seed(5 if same_seed else 5 + rank)
        with an.record():
            z = Bernoulli(logits=model.up(X[:4])).sample()
            first = z.sum(1)
            loss = (first if same_seed or rank else first + z[:, 0] * z[:, 1] * 0 + z[:, 2]).mean()
            if not same_seed and rank == 0:
                loss = loss + (z * 2).mean()
        expected = "same random numbers" if same_seed else "one model"
        with pytest.raises(an.errors.RanksError, match=expected):
            an.backward(loss, baseline=an.estimators.AcrossRanks(an.estimators.LeaveOneOut()))
    model = net()
    torch.manual_seed(rank)
    with an.record():
        z = Bernoulli(logits=model.up(X[:4])).sample()
        y = Bernoulli(logits=model.up(model.down(z))).sample() if rank else z
        loss = (model.down(y) - X[:4]).square().sum(1).mean()
    with pytest.raises(an.errors.RanksError, match="rank 0 has 'z', rank 1 has 'z', 'bernou"):
        an.backward(loss, baseline=an.estimators.AcrossRanks(an.estimators.LeaveOneOut()))
    said("refusals")


def looked_for() -> None:
    """Let torch look for parameters that no pass reaches: what scores alone reach is reached."""
    rank, world = dist.get_rank(), dist.get_world_size()
    x, sizes = X[: 4 * world], [4] * world
    mine = own(sizes, rank)
    every: tuple[dict[str, Any], ...] = ({"find_unused_parameters": True}, {"static_graph": True})
    for options in every:
        model, coder, single = net(), net(), net()
        model.register_module("unused", nn.Linear(2, 2))
        parallel = DistributedDataParallel(model, **options)
        # What it returns is a draw, which has no gradient.
        drawn = DistributedDataParallel(_Drawing(coder.up), **options)
        for step in range(2):
            for each in (model, coder, single):
                each.zero_grad()
            with drawing(model, x, mine.start, step), an.record():
                loss = parallel(x[mine]).mean()
            an.backward(loss, baseline=None)
            with drawing(coder, x, mine.start, step), an.record():
                z = drawn(x[mine])
                loss = (coder.down(z) - x[mine]).square().sum(1).mean() + 0.2 * z.sum(1).mean()
            an.backward(loss, baseline=None)
            with drawing(single, x, 0, step), an.record():
                loss = (single(x) - 3 * x[:, 0]).mean()
            an.backward(loss, baseline=None)
            expected = [parameter.grad for parameter in single.up.parameters()]
            found = [parameter.grad for parameter in coder.up.parameters()]
            torch.testing.assert_close(found, expected)
            expected = [parameter.grad for parameter in single.down.parameters()]
            found = [parameter.grad for parameter in model.down.parameters()]
            torch.testing.assert_close(found, expected)
            same_on_all_ranks(list(model.up.parameters()))
    said("parameters that torch looks for")


class _Drawing(nn.Module):
    def __init__(self, up: nn.Module) -> None:
        super().__init__()
        self.up = up

    def forward(self, x: Tensor) -> Any:
        return Bernoulli(logits=self.up(x)).sample()


def same_on_all_ranks(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        assert parameter.grad is not None
        every = [torch.empty_like(parameter.grad) for _ in range(dist.get_world_size())]
        dist.all_gather(every, parameter.grad)
        assert all(torch.equal(each, every[0]) for each in every)
        assert every[0].abs().sum() > 0


def sharded() -> None:
    """Shard the parameters (FSDP2), and compare with one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    rank, world = dist.get_rank(), dist.get_world_size()
    x, sizes = X[: 4 * world], [4] * world
    mine, model, single = own(sizes, rank), net(), net()
    logits = copy.deepcopy(model)
    mesh = init_device_mesh("cpu", (world,))
    fully_shard(model, mesh=mesh)
    with drawing(logits, x, mine.start, 0), an.record():
        loss = model(x[mine]).mean()
    an.backward(loss, baseline=an.estimators.AcrossRanks(an.estimators.LeaveOneOut()))
    with drawing(single, x, 0, 0), an.record():
        loss = single(x).mean()
    an.backward(loss, baseline=an.estimators.LeaveOneOut())
    for found, expected in zip(model.parameters(), single.parameters(), strict=True):
        whole: Any = found.grad
        torch.testing.assert_close(whole.full_tensor(), expected.grad, rtol=1e-6, atol=1e-9)
    said("sharded parameters")


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    world = dist.get_world_size()
    chosen = sys.argv[1:]
    if not chosen or "baselines" in chosen:
        for name, baseline in BASELINES.items():
            compare(name, [4] * world, baseline)
        compare("uneven batches", [4, *[3] * (world - 2), 1], an.estimators.LeaveOneOut)
        halves = [dist.new_group([*range(world)[half::2]]) for half in range(2)]
        half = halves[dist.get_rank() % 2]
        compare("groups of ranks", [3, 2], an.estimators.LeaveOneOut, half)
    for check in (accumulate, orders, refusals, looked_for, sharded):
        if not chosen or check.__name__ in chosen:
            check()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
