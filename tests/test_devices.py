"""The library on each device that this machine has: the CPU, and a GPU where there is one."""

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

import ancestral as an
from ancestral.estimators.credit.credit import Estimator
from ancestral.provenance.tensor.tensor import provenance
from ancestral.trace.context.stack import MOST_KEPT
from oracles import forcing

HAS_GPU = torch.cuda.is_available()
DEVICES = ["cpu", *(["cuda"] if HAS_GPU else [])]
on_each_device = pytest.mark.parametrize("device", DEVICES)
needs_a_gpu = pytest.mark.skipif(not HAS_GPU, reason="the machine has no GPU that CUDA drives")


class Net(nn.Module):
    """Two layers of coins, and what a third makes of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the cost of each case, [cases]."""
        z = Bernoulli(logits=self.first(x)).sample()
        w = Bernoulli(logits=self.second(z)).sample()
        cost: Tensor = ((self.last(w) - x) ** 2).sum(-1)
        return cost


def fixed(device: str) -> Callable[[Distribution, torch.Size], Tensor]:
    """Return a rule for draws that is the same on every device."""
    source = torch.Generator().manual_seed(1)

    def rule(_: Distribution, shape: torch.Size) -> Tensor:
        uniform = torch.rand(shape, generator=source, dtype=torch.float64, device="cpu")
        return uniform.lt(0.5).double().to(device)

    return rule


def gradients(device: str, estimator: Estimator) -> list[Tensor]:
    """Return the gradient of a run on a device."""
    net = Net().double().to(device)
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).reshape(8, 3).to(device)
    with forcing(fixed(device)), an.record() as trace:
        loss = net(x).mean()
    assert [node.value.device.type for node in trace.values()] == [device] * 2
    an.backward(loss, credit=estimator)
    return [p.grad.cpu() for p in net.parameters() if p.grad is not None]


@on_each_device
@pytest.mark.parametrize(
    "estimator", [an.estimators.by_element, an.estimators.by_site, an.estimators.total_cost]
)
def test_the_gradient_is_that_of_the_cpu_for_the_same_draws(
    device: str, estimator: Estimator
) -> None:
    ours, expected = gradients(device, estimator), gradients("cpu", estimator)
    assert len(ours) == 6
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@on_each_device
def test_what_moves_between_devices_keeps_its_elements_apart(device: str) -> None:
    logits = torch.zeros(4, 3, device=device, requires_grad=True)
    with an.record():
        z = Bernoulli(logits=logits).sample()
        moved = [z.to("cpu"), z.cpu(), z.to(device, torch.float64), z.to(device, copy=True)]
        if device == "cuda":
            moved += [z.cpu().cuda(), z.cpu().pin_memory().to(device, non_blocking=True)]
        for each in moved:
            found = provenance(each)
            assert found is not None
            assert [alignment.dims for alignment, _ in found.entries] == [(0, 1)]


@on_each_device
def test_a_number_that_leaves_a_device_is_an_escape(device: str) -> None:
    with an.record() as trace:
        z = Bernoulli(torch.tensor(0.5, device=device, requires_grad=True)).sample()
        for look in (bool, float, Tensor.item, Tensor.tolist):
            look(z)
    assert [escape.sources for escape in trace.escapes] == [frozenset({"z"})] * 4


@on_each_device
def test_a_seed_makes_the_draws_of_a_device_repeat_and_leaves_those_around(device: str) -> None:
    def drawn() -> list[Tensor]:
        return [
            Normal(torch.zeros(5, device=device), 1.0).sample(),
            torch.randn(5, device=device),
            torch.randn(5),
        ]

    torch.manual_seed(3)
    undisturbed = [drawn(), drawn()]
    torch.manual_seed(3)
    before = drawn()
    with an.handlers.seed(7):
        first = drawn()
    with an.handlers.seed(7):
        again = drawn()
    after = drawn()
    for a, b in ((first, again), (before, undisturbed[0]), (after, undisturbed[1])):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(first[0], before[0])


@on_each_device
def test_a_seed_goes_on_from_block_to_block(device: str) -> None:
    def drawn() -> Tensor:
        loc = torch.zeros(2, device=device)
        draws = [an.sample("z", Normal(loc, 1.0)), torch.rand_like(loc), torch.randn(2)]
        return torch.cat([each.cpu() for each in draws])

    stream, again = an.handlers.seed(3), an.handlers.seed(3)
    first, second = stream(drawn)(), stream(drawn)()
    assert not torch.equal(first, second)
    assert torch.equal(again(drawn)(), first)
    assert torch.equal(again(drawn)(), second)


@on_each_device
def test_a_generator_seeds_the_device_that_it_is_of(device: str) -> None:
    def drawn() -> Tensor:
        return torch.randn(5, device=device)

    with an.handlers.seed(torch.Generator(device).manual_seed(3)):
        ours = drawn()
    expected = torch.randn(5, device=device, generator=torch.Generator(device).manual_seed(3))
    assert torch.equal(ours, expected)


@on_each_device
def test_a_trace_that_is_saved_on_a_device_is_loaded_on_the_cpu(
    device: str, tmp_path: Path
) -> None:
    with an.record() as trace:
        z = an.sample("z", Normal(torch.zeros(3, device=device), 1.0))
        an.sample("x", Normal(z, 1.0), obs=torch.ones(3, device=device))
    trace.save(tmp_path / "trace")
    again = an.Trace.load(tmp_path / "trace")
    for name, node in trace.items():
        assert again[name].value.device.type == "cpu"
        torch.testing.assert_close(again[name].log_prob, node.log_prob.cpu())


@on_each_device
@pytest.mark.parametrize("is_vectorized", [False, True])
def test_the_bound_at_the_exact_posterior_is_the_evidence(device: str, is_vectorized: bool) -> None:
    one = torch.ones((), dtype=torch.float64, device=device)

    def model() -> None:
        z = an.sample("z", Normal(0 * one, one))
        an.sample("x", Normal(z, one), obs=one)

    def guide() -> None:
        an.sample("z", Normal(0.5 * one, 0.5**0.5 * one))

    found = an.infer.elbo(model, guide, particles=3, vectorized=is_vectorized)
    evidence = Normal(0.0, 2.0**0.5).log_prob(torch.tensor(1.0)).double()
    assert found.value.device.type == device
    torch.testing.assert_close(found.value.cpu(), evidence, rtol=1e-6, atol=0)


@on_each_device
def test_a_marginal_is_that_of_the_sum_by_hand(device: str) -> None:
    prior = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, device=device, requires_grad=True)
    table = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64, device=device)

    def model() -> None:
        z = an.sample("z", Categorical(prior), infer={"enumerate": "parallel"})
        an.sample("x", Bernoulli(table[z]), obs=torch.ones((), dtype=torch.float64, device=device))

    with an.record() as trace, an.handlers.enumerate():
        model()
    found = an.infer.log_marginal(trace)
    expected = (prior / prior.sum() * table).sum().log()
    torch.testing.assert_close(found, expected)
    assert found.device.type == device


@needs_a_gpu
def test_recordings_that_nobody_asks_let_go_of_the_memory_of_the_gpu() -> None:
    weight = torch.ones(1_000_000, device="cuda", requires_grad=True)
    sizes = []
    for _ in range(3 * MOST_KEPT):
        with an.record():
            (Normal(weight, 1.0).rsample() ** 2).sum().item()
        gc.collect()
        sizes.append(torch.cuda.memory_allocated())
    assert max(sizes[2 * MOST_KEPT :]) <= max(sizes[: 2 * MOST_KEPT])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@on_each_device
def test_draws_without_a_gradient_are_scored_by_a_second_pass(
    device: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    table = torch.randn(4, 4, device=device, dtype=dtype, requires_grad=True)
    with an.record() as trace:
        with torch.no_grad():
            words = torch.zeros(8, 1, dtype=torch.long, device=device)
            for _ in range(3):
                word = torch.multinomial(table[words[:, -1]].softmax(-1).float(), 1)
                words = torch.cat([words, word], 1)
        loss = words.float().sum(1).mean()
    plain = an.untrack(words)
    second = Categorical(logits=table[plain[:, :-1]].float())
    an.rescore(trace, second, atol=None if dtype == torch.float32 else 0.1)
    score = second.log_prob(plain[:, 1:]).sum() * an.untrack(loss)
    by_hand = torch.autograd.grad(score, table, retain_graph=True)[0]
    an.backward(loss, credit=an.estimators.total_cost, baseline=None)
    torch.testing.assert_close(table.grad, by_hand)
