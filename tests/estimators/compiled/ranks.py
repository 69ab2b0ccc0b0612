"""What each of two ranks does with compiled steps: compare with the mean of recordings alone.

Run by `test_parallel.py`; prints for each order of wrapping whether it was compiled.
"""

import os
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributions import Bernoulli
from torch.nn.parallel import DistributedDataParallel

import ancestral as an

EACH: dict[str, Any] = {"find_unused_parameters": True}
Step = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """A layer that scores alone reach, one that costs reach, buffers, and one that nothing does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(3, 4).double(), nn.Linear(4, 3).double()
        self.norm, self.unused = nn.BatchNorm1d(3).double(), nn.Linear(2, 2).double()

    def forward(self, x: Tensor) -> Any:
        z = Bernoulli(logits=self.up(x)).sample()
        cost = (self.norm(self.down(z)) - x).square().sum(1).mean()
        return cost + (z * x[:, :1]).sum(1).mean()


class Stepping(nn.Module):
    """Calls a step of a module that it has."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net
        self.step: Any = an.compile(net, backend="eager")

    def forward(self, x: Tensor) -> Any:
        return self.step(x)


def data(seed: int, rank: int) -> Tensor:
    """Return what a rank is given in a step, and let it draw by both numbers."""
    torch.manual_seed(2 * seed + rank)
    return torch.randn(6 + seed % 2, 3).double()


def gradient(net: Net) -> list[Tensor]:
    found = [each.grad for each in (*net.up.parameters(), *net.down.parameters())]
    net.zero_grad()
    assert all(each is not None for each in found)
    return [each for each in found if each is not None]


def mean(seed: int, **options: Any) -> list[Tensor]:
    """Return the mean of the gradients of recordings of what both ranks are given."""
    found = []
    for rank in range(2):
        net = Net()
        x = data(seed, rank)
        with an.record():
            loss = net(x)
        an.backward(loss, **options)
        found.append(gradient(net))
    return [(one + other) / 2 for one, other in zip(*found, strict=True)]


def compare(net: Net, step: Step, seed: int, expected: list[Tensor]) -> None:
    net.load_state_dict(Net().state_dict())
    x = data(seed, dist.get_rank())
    step(x).backward()
    torch.testing.assert_close(gradient(net), expected)


def compiled(function: Callable[..., Tensor], **options: Any) -> Any:
    return an.compile(function, backend="eager", **options)


def orders() -> None:
    """Wrap and compile in every order, by turns with each way in which torch looks for unused."""
    for number, (name, make) in enumerate(ORDERS.items()):
        net = Net()
        step, owner = make(net, {"static_graph": True} if number % 2 else EACH)
        for seed in (0, 2):
            compare(net, step, seed, mean(seed))
        print(name, owner.plan.is_compiled, owner.plan.refusal, flush=True)


def _around(module: nn.Module) -> tuple[Any, Any]:
    step = compiled(module)
    return step, step


def _within_a_loss(module: nn.Module) -> tuple[Any, Any]:
    step = compiled(lambda x: module(x) * 1.0)
    return step, step


def _around_a_step(net: Net, given: dict[str, Any]) -> tuple[Any, Any]:
    stepping = Stepping(net)
    module = DistributedDataParallel(stepping, bucket_cap_mb=1e-4, **given)
    return module, stepping.step


ORDERS: dict[str, Callable[[Net, dict[str, Any]], tuple[Any, Any]]] = {
    "around": lambda net, given: _around(DistributedDataParallel(net, **given)),
    "within a loss": lambda net, given: _within_a_loss(DistributedDataParallel(net, **given)),
    "around a step": _around_a_step,
    "around a wrapped module": lambda net, given: _around(
        DistributedDataParallel(an.wrap(net), **given)
    ),
    "wrapped itself": lambda net, given: _around(an.wrap(DistributedDataParallel(net, **given))),
}


def modules_that_change() -> None:
    """Give a step one parallel module after the other: what is around each is its own."""
    nets = [Net(), Net()]
    modules = [DistributedDataParallel(net, **EACH) for net in nets]
    chosen = [modules[0]]
    step = compiled(lambda x: chosen[0](x))
    for seed, at in ((0, 0), (2, 1), (4, 0), (5, 1)):  # the last of another size
        chosen[0] = modules[at]
        compare(nets[at], step, seed, mean(seed))
    print("modules that change", step.plan.is_compiled, flush=True)


def steps_that_add_up() -> None:
    """Add up two steps, of which the first is not synchronized; ranks plan at other steps."""
    net = Net()
    module = DistributedDataParallel(net, **EACH)
    step = compiled(module)
    with module.no_sync():
        step(data(0, dist.get_rank())).backward()
    net.norm.load_state_dict(Net().norm.state_dict())
    step(data(1, dist.get_rank())).backward()
    expected = [one + other for one, other in zip(mean(0), mean(1), strict=True)]
    torch.testing.assert_close(gradient(net), expected)
    if dist.get_rank() == 0:
        torch.compiler.reset()
    compare(net, step, 2, mean(2))
    print("steps that add up", step.plan.is_compiled, flush=True)


def baselines() -> None:
    """Ask a baseline across ranks in each step."""
    net = Net()
    baseline = an.estimators.AcrossRanks(an.estimators.RunningMean())
    step = compiled(DistributedDataParallel(net, **EACH), baseline=baseline)
    compare(net, step, 0, mean(0, baseline=None))  # which nothing has taught yet
    print("baselines", step.plan.is_compiled, step.plan.refusal, flush=True)


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=an.errors.NotCompiledWarning)
    warnings.filterwarnings("ignore", "You passed find_unused_parameters")
    rank = int(sys.argv[2])
    dist.init_process_group("gloo", init_method=sys.argv[1], rank=rank, world_size=2)
    for check in (orders, modules_that_change, steps_that_add_up, baselines):
        check()
    os._exit(0)


if __name__ == "__main__":
    main()
