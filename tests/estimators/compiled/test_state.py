"""Compiled steps over time: baselines that learn, sizes that change, what a plan tells."""

import copy
from typing import Any

import pytest
import torch
from steps import V, W, X, agree, compiled, eager
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.utils.checkpoint import checkpoint

import ancestral as an
from ancestral.tools.demo.belief_net import BeliefNet

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def _belief_net() -> tuple[BeliefNet, list[nn.Parameter]]:
    torch.manual_seed(0)
    net = BeliefNet(8, 4, 3)
    return net, list(net.parameters())


def _images(count: int) -> Tensor:
    return torch.bernoulli(torch.full((count, 8), 0.4))


@pytest.mark.parametrize("baseline", [None, "auto"])
def test_one_plan_serves_all_sizes(baseline: Any) -> None:
    net, parameters = _belief_net()
    step: Any = an.compile(net, baseline=baseline, dynamic=True, backend="eager")
    plans = set()
    for seed, count in enumerate((12, 20, 9, 33, 12)):
        agree(step, net, parameters, _images(count), seed=seed, baseline=baseline)
        plans.add(id(step.plan))
        kept = step.plan  # whose identity stays its own
        assert kept.is_compiled, kept
    assert len(plans) == 1


def test_one_plan_serves_numbers_that_count_in_the_loss() -> None:
    def loss(x: Tensor, rate: float, count: int) -> Any:
        z = Bernoulli(logits=W * x).sample()
        return (z * x * V).sum() / len(x) * rate + z.sum() * count

    step: Any = an.compile(loss, dynamic=True, backend="eager")
    plans = set()
    for seed, (rows, rate, count) in enumerate(((4, 0.5, 7), (6, 1.5, 8), (5, 2.5, 9))):
        agree(step, loss, [W, V], X.repeat(2, 1)[:rows], rate, count, seed=seed)
        plans.add(id(step.plan))
        kept = step.plan  # whose identity stays its own
        assert kept.is_compiled, kept
    assert len(plans) == 1


def test_the_plan_tells_sites_terms_and_credit_and_has_the_graph_of_a_recording() -> None:
    net, _ = _belief_net()
    x = _images(5)
    step: Any = an.compile(net, backend="eager")
    assert str(step.plan) == "None"
    step(x)
    text = str(step.plan)
    assert text.startswith("compiled: 2 sites, 5 terms; ")
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["site", "h1", "h2"]
    assert "belief_net.py:" in text
    assert "score" in text
    with an.record() as trace:
        loss = net(x)
    an.backward(loss)
    assert step.plan.graph == trace.graph


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = Bernoulli(logits=checkpoint(self.layer, x, use_reentrant=False)).sample()
        cost: Tensor = checkpoint(lambda z: self.out(z).tanh(), z, use_reentrant=False)
        return (cost - x).pow(2).mean()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_checkpoints_are_compiled(backend: Any) -> None:
    torch.manual_seed(0)
    net, x = _Checkpointed(), torch.randn(4, 3)
    step: Any = an.compile(net, backend=backend)
    agree(step, net, list(net.parameters()), x)
    assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("is_loss", [False, True])
def test_draws_and_losses_within_checkpoints_are_compiled(is_loss: bool, backend: Any) -> None:
    torch.manual_seed(0)
    layer, x = nn.Linear(3, 3), torch.randn(4, 3)

    def part(x: Tensor) -> Any:
        z = checkpoint(lambda y: Bernoulli(logits=layer(y)).sample(), x, use_reentrant=False)
        return (layer(z).tanh() * x).mean() + (z * x).sum() if is_loss else z

    def loss(x: Tensor) -> Any:
        found: Any = checkpoint(part, x, use_reentrant=False)
        return found if is_loss else (layer(found) - x).square().mean()

    step: Any = an.compile(loss, backend=backend)
    for seed in (0, 1):
        agree(step, loss, list(layer.parameters()), x, seed=seed)
    assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize("where", ["within", "around"])
def test_autocast_is_compiled(where: str) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 3)

    def loss(x: Tensor) -> Any:
        with torch.autocast("cpu", torch.bfloat16, enabled=where == "within"):
            logits = layer(x)
        z = Bernoulli(logits=logits.float()).sample()
        return (z * x).mean() + layer(z).float().mean()

    step: Any = an.compile(loss, backend="eager")
    x = torch.randn(4, 3)
    for seed in (0, 1):
        with torch.autocast("cpu", torch.bfloat16, enabled=where == "around"):
            torch.manual_seed(seed)
            theirs = eager(loss, list(layer.parameters()), x)
            torch.manual_seed(seed)
            ours = compiled(step, list(layer.parameters()), x)
        for one, other in zip(ours[1], theirs[1], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)  # bfloat16 has 8 bits
    assert step.plan.is_compiled, step.plan


def test_recurrent_layers_are_compiled() -> None:
    torch.manual_seed(0)
    layer = nn.GRU(3, 3, batch_first=True)

    def loss(x: Tensor) -> Any:
        z = Bernoulli(logits=layer(x)[0][:, -1]).sample()
        return (z * x[:, 0]).mean() + layer(z.unsqueeze(1))[0].mean()

    x = torch.randn(4, 5, 3)
    step: Any = an.compile(loss, backend="eager")
    agree(step, loss, list(layer.parameters()), x)
    assert step.plan.is_compiled, step.plan


class _Writing(nn.Module):
    """Writes what it draws into its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("last", torch.zeros(4, 3))

    def forward(self, x: Tensor) -> Any:
        z = Bernoulli(logits=self.layer(x)).sample()
        last: Any = self.last
        last.copy_(z)
        return (self.norm(z) * x).mean() + (last @ self.layer.weight).mean()


def test_draws_are_written_into_buffers() -> None:
    torch.manual_seed(0)
    net, x = _Writing(), torch.randn(4, 3)
    ours = copy.deepcopy(net)  # what a recording has written into is tracked
    step: Any = an.compile(ours, backend="eager")
    for seed in (0, 1, 2):
        torch.manual_seed(seed)
        _, theirs = eager(net, list(net.parameters()), x)
        torch.manual_seed(seed)
        _, found = compiled(step, list(ours.parameters()), x)
        torch.testing.assert_close(found, theirs)
        for one, other in zip(ours.buffers(), net.buffers(), strict=True):
            torch.testing.assert_close(an.untrack(one), an.untrack(other))
        assert step.plan.is_compiled, step.plan


def test_what_a_loss_keeps_beside_itself() -> None:
    torch.manual_seed(0)

    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.is_detached, self.kept = nn.Linear(3, 3), True, torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            z = Normal(self.layer(x), 1.0).rsample()
            cost = (z * x).mean()
            self.kept = cost.detach() * 2 if self.is_detached else cost * 2
            return cost

    net, x = Keeping(), torch.randn(4, 3)
    step: Any = an.compile(net, backend="eager")
    agree(step, net, list(net.parameters()), x)
    assert step.plan.is_compiled, step.plan
    value = step(x)
    assert torch.equal(net.kept, value.detach() * 2)
    net.is_detached = False
    with pytest.warns(an.errors.NotCompiledWarning, match="keep it detached"):
        agree(step, net, list(net.parameters()), x)
