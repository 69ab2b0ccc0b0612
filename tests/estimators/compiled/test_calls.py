"""Calls of compiled steps: copies, threads, many of one function, without a gradient, errors."""

import copy
import pickle
import threading
import warnings
from typing import Any

import pytest
import torch
from steps import V, W, X, agree, agreeing, eager
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.fx.experimental.proxy_tensor import make_fx

import ancestral as an

pytestmark = pytest.mark.usefixtures("fresh_compiler")


def _loss(x: Tensor) -> Any:
    z = Bernoulli(logits=W * x).sample()
    return (z * x).mean() + (z @ V).mean()


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.has_more = nn.Linear(3, 3).double(), False

    def forward(self, x: Tensor) -> Any:
        z = Bernoulli(logits=self.layer(x)).sample()
        cost = (z * x).mean()
        if self.has_more:
            y = Bernoulli(logits=z @ self.layer.weight).sample()
            cost = cost + (y * x).mean()
        return cost


class _Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = _Net()
        self.step: Any = an.compile(self.net, backend="eager")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
@pytest.mark.parametrize("is_used", [False, True])
def test_a_copy_of_a_step_is_a_step_of_the_copy(copied: Any, is_used: bool) -> None:
    owner = _Owner()
    if is_used:
        torch.autograd.grad(owner.step(X), owner.net.layer.weight)
    other = copied(owner)
    with torch.no_grad():
        other.net.layer.weight.mul_(-3)
    for each in (other, owner):
        agree(each.step, each.net, list(each.net.parameters()), X)
        assert each.step.plan.is_compiled, each.step.plan
    assert other.step.plan is not owner.step.plan


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_a_copy_of_a_step_of_a_function_has_a_plan_of_its_own(copied: Any) -> None:
    step = agreeing(_loss, [W, V], X, seeds=(0,), baseline=an.estimators.LeaveOneOut())
    other = copied(step)
    agree(other, _loss, [W, V], X[:2])
    assert other.plan.is_compiled, other.plan
    assert other.plan is not step.plan


def test_many_steps_of_one_function_do_not_share_the_limit_of_the_compiler() -> None:
    for number in range(12):
        baseline: Any = (None, "auto")[number % 2]
        step = agreeing(_loss, [W, V], X, seeds=(0,), baseline=baseline)
        assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_a_gradient_it_is_the_loss_and_nothing_is_decided(mode: Any) -> None:
    net = _Net()
    baseline = an.estimators.RunningMean()
    step: Any = an.compile(net, baseline=baseline, backend="eager")
    for _ in range(2):
        torch.manual_seed(1)
        expected = net(X).detach()
        torch.manual_seed(1)
        with mode():
            found = step(X)
        assert type(found) is Tensor
        assert torch.equal(found, expected)
        assert not found.requires_grad
    assert str(step.plan) == "None"
    assert not baseline.state_dict()
    for seed in (0, 1):
        torch.manual_seed(seed)
        step(X).backward()
    assert step.plan.is_compiled, step.plan


@pytest.mark.filterwarnings("ignore::ancestral.errors.NotCompiledWarning")
@pytest.mark.parametrize("sizes", [(3,), (2, 3)], ids=["of one size", "of two sizes"])
def test_threads_compile_and_run_one_step(sizes: tuple[int, ...]) -> None:
    costs = torch.tensor([1, 2, 4])
    logits = torch.tensor([0.3, -0.2, 0.5], requires_grad=True)

    def loss(size: int) -> Any:
        return (Bernoulli(logits=logits[:size]).sample() * costs[:size]).sum()

    step: Any = an.compile(loss, baseline=None, backend="eager")
    right = list[bool]()

    def work(number: int) -> None:
        for _ in range(5):
            value = step(sizes[number % len(sizes)])
            (found,) = torch.autograd.grad(value, logits)
            z = value.detach().int().bitwise_and(costs).ne(0).float()  # the cost tells the draw
            right.append(torch.allclose(found, z * costs * (z - logits.sigmoid())))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 20
    assert step.plan.is_compiled or len(sizes) == 2, step.plan


class _Raising(Normal):
    def log_prob(self, value: Tensor) -> Any:
        raise ValueError

    def sample(self, sample_shape: Any = ()) -> Any:
        raise ValueError


@pytest.mark.parametrize("is_draw", [False, True])
def test_an_error_that_the_program_catches_leaves_later_draws_marked(is_draw: bool) -> None:
    def loss(x: Tensor) -> Any:
        z, q = Bernoulli(logits=W * x).sample(), _Raising(W, V.exp())
        try:
            y = q.sample() if is_draw else q.log_prob(z)
        except ValueError:
            y = Bernoulli(logits=W).sample()
        return (z * x).mean() + (y * V).mean()

    step = agreeing(loss, [W, V], X)
    assert step.plan.is_compiled, step.plan
    assert agreeing(_loss, [W, V], X, seeds=(0,)).plan.is_compiled


@pytest.mark.filterwarnings("ignore:baseline= has a choice for")
def test_a_baseline_of_no_site_is_no_reason_to_stay_eager() -> None:
    mean = an.estimators.RunningMean
    given: Any = {"z": mean(0.5), "nothing": mean()}
    theirs = copy.deepcopy(given)
    step: Any = an.compile(_loss, baseline=given, backend="eager")
    for seed in range(3):
        agree(step, _loss, [W, V], X, seed=seed, baseline=theirs)
    assert step.plan.is_compiled, step.plan


def test_a_baseline_learns_of_a_site_that_comes_later() -> None:
    net = _Net()
    ours = an.estimators.RunningMean(0.5)
    theirs = copy.deepcopy(ours)
    step: Any = an.compile(net, baseline=ours, backend="eager")
    for seed, has_more in enumerate((False, False, True, True, False, True, False)):
        net.has_more = has_more
        agree(step, net, list(net.parameters()), X, seed=seed, baseline=theirs)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert set(ours.state_dict()) == {"z", "y"}
    assert step.plan.is_compiled, step.plan


def test_a_step_that_raises_teaches_a_baseline_nothing() -> None:
    def loss(x: Tensor, is_bad: bool) -> Any:
        found = _loss(x)
        if is_bad:
            raise ValueError("bad")
        return found

    ours = an.estimators.RunningMean(0.5)
    theirs = copy.deepcopy(ours)
    step: Any = an.compile(loss, baseline=ours, backend="eager")
    for seed, is_bad in enumerate((False, True, False, True, False)):
        if is_bad:
            with pytest.raises(ValueError, match="bad"):
                step(X, is_bad)
        else:
            agree(step, loss, [W, V], X, is_bad, seed=seed, baseline=theirs)
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_draw_that_raises_leaves_gradients_on(backend: Any) -> None:
    step = agreeing(_loss, [W, V], X, seeds=(0,), backend=backend)
    with pytest.raises(RuntimeError, match=r"p_in >= 0|p >= 0"):
        step(X * torch.nan)
    assert torch.is_grad_enabled()
    agree(step, _loss, [W, V], X)
    assert step.plan.is_compiled, step.plan


def test_the_gradients_of_steps_add_up() -> None:
    step: Any = an.compile(_loss, backend="eager")
    expected = torch.zeros(3, dtype=torch.float64)
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        expected += eager(_loss, [W, V], X)[1][0]
        torch.manual_seed(seed)
        losses.append(step(X))
    for loss in losses:  # both are alive at once
        (loss / 2).backward(retain_graph=True)
        (loss / 2).backward()
    assert W.grad is not None
    torch.testing.assert_close(W.grad, expected)
    W.grad = V.grad = None


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by the compiler
def test_an_argument_may_be_computed_from_what_the_loss_reads_too() -> None:
    def whole(x: Tensor) -> Any:
        return _loss(x * V.exp())

    step: Any = an.compile(_loss, backend="eager")
    for seed in (0, 1):
        agree(lambda x: step(x * V.exp()), whole, [W, V], X, seed=seed)
    assert step.plan.is_compiled, step.plan


def test_a_function_of_a_module_that_nobody_can_import_is_compiled() -> None:
    home: dict[str, Any] = {"__name__": "nowhere", "Bernoulli": Bernoulli, "W": W}
    exec("def loss(x): return (Bernoulli(logits=W).sample() * x).sum()", home)
    step = agreeing(home["loss"], [W, V], V)
    assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize(
    ("stance", "rows"), [("force_eager", 3), ("force_eager", 4), ("eager_on_recompile", 3)]
)
def test_a_compiler_that_is_told_to_run_eagerly_costs_no_score(stance: Any, rows: int) -> None:
    step = agreeing(_loss, [W, V], X, seeds=(0,))
    with (
        torch.compiler.set_stance(stance),
        pytest.warns(an.errors.NotCompiledWarning, match="as it is"),
    ):
        agree(step, _loss, [W, V], X[:rows])


def test_the_compiler_is_asked_only_where_no_code_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    step = agreeing(_loss, [W, V], X, seeds=(0,))
    asked = list[tuple[int, ...]]()
    compile_ = step._compiled

    def asking(store: Any, x: Tensor) -> Any:
        asked.append(tuple(x.shape))
        return compile_(store, x)

    monkeypatch.setattr(step, "_compiled", asking)
    for seed, rows in enumerate((4, 2, 4, 2, 3, 4)):
        agree(step, _loss, [W, V], X[:rows], seed=seed)
    assert asked == [(2, 3), (3, 3)]
    torch.compiler.reset()
    agree(step, _loss, [W, V], X)
    assert asked[2:] == [(4, 3)]
    assert step.plan.is_compiled, step.plan


@pytest.mark.parametrize("tracing", [make_fx, lambda f: torch.jit.trace(f, (X,))])
def test_a_step_that_has_a_plan_is_traced_by_nobody(tracing: Any) -> None:
    step = agreeing(_loss, [W, V], X, seeds=(0,))

    def doubled(x: Tensor) -> Any:
        return step(x) * 2

    with pytest.raises(RuntimeError, match="dynamo-optimized function"):
        tracing(doubled)(X)


def test_a_compiler_that_is_disabled_costs_no_score() -> None:
    step = agreeing(_loss, [W, V], X, seeds=(0,))
    disabled: Any = torch._dynamo.config.patch(disable=True)
    with disabled, warnings.catch_warnings():
        warnings.simplefilter("ignore", an.errors.NotCompiledWarning)
        agree(step, _loss, [W, V], X[:3])


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by the compiler
def test_a_step_within_a_function_that_is_compiled_keeps_its_scores() -> None:
    step: Any = an.compile(_loss, backend="eager")

    def doubled(x: Tensor) -> Any:
        return step(x) * 2

    outer: Any = torch.compile(doubled, backend="eager")
    for seed in (0, 1):
        agree(outer, lambda x: _loss(x) * 2, [W, V], X, seed=seed)


def test_a_step_is_no_part_of_a_whole_graph() -> None:
    step: Any = an.compile(_loss, backend="eager")

    def doubled(x: Tensor) -> Any:
        return step(x) * 2

    outer: Any = torch.compile(doubled, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="no part of another graph"):
        outer(X)
